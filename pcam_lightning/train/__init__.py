"""Training of one classifier, from a checked config to a run folder."""
