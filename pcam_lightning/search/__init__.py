"""Bayesian search over settings: search space, study of the trials, report."""
