"""The run folder: what is written around a run's life, and how it is read back."""

from pcam_lightning.runs.run import Run, find_runs

__all__ = ["Run", "find_runs"]
