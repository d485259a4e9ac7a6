"""Lightning callbacks: checkpoints, progress, gradient norms, throughput."""

from pcam_lightning.engine.callbacks.best_checkpoint import BestCheckpoint
from pcam_lightning.engine.callbacks.epoch_logger import EpochLogger, progress
from pcam_lightning.engine.callbacks.gradient_norm import GradientNorm
from pcam_lightning.engine.callbacks.preemption_checkpoint import PreemptionCheckpoint
from pcam_lightning.engine.callbacks.throughput import Throughput

__all__ = [
    "BestCheckpoint",
    "EpochLogger",
    "GradientNorm",
    "PreemptionCheckpoint",
    "Throughput",
    "progress",
]
