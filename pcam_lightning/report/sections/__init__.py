"""Sections of the report, one per module, each a function of the records."""
