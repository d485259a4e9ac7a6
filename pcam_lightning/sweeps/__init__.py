"""Sweeps: their jobs, tables of scores over seeds, and the best configuration."""
