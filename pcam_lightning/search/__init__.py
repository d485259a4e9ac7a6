"""A Bayesian search over settings: what may be tried, the study of its trials, its pictures."""
