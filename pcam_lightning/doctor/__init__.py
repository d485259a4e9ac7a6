"""Doctor: is this machine, and its cluster, ready to train."""
