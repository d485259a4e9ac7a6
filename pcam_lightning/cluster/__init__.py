"""Slurm: what is asked of it before a sweep, how its jobs are started, watched and requeued."""
