"""PatchCamelyon files to batches of bytes."""

from pcam_lightning.data.datamodule import PCamDataModule
from pcam_lightning.data.dataset import Batch

__all__ = ["Batch", "PCamDataModule"]
