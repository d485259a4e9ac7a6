"""The run folder: writing it during a run, and reading it back."""

from pcam_lightning.runs.run import Run, find_runs

__all__ = ["Run", "find_runs"]
