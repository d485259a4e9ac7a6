"""Collection of the runs of a sweep: states, scores over seeds, the best configuration."""
