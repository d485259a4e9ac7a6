"""Slurm jobs: preflight checks, submission, waiting, job states, requeue."""
