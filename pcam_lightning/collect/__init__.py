"""Collect the runs of a sweep: their states, scores over seeds, the best configuration."""
