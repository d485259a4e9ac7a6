"""Audit of a data set: one pass over its files, findings of damage and leakage, pictures."""
