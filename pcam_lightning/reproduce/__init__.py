"""Repeat a finished run and compare the result bit for bit."""
