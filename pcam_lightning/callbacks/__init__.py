"""What watches a run."""

from pcam_lightning.callbacks.best_checkpoint import BestCheckpoint
from pcam_lightning.callbacks.compilation import Compilation
from pcam_lightning.callbacks.epoch_lines import EpochLines, progress
from pcam_lightning.callbacks.gradient_norm import GradientNorm
from pcam_lightning.callbacks.last_checkpoint import LastCheckpoint
from pcam_lightning.callbacks.throughput import Throughput

__all__ = [
    "BestCheckpoint",
    "Compilation",
    "EpochLines",
    "GradientNorm",
    "LastCheckpoint",
    "Throughput",
    "progress",
]
