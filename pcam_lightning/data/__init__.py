"""PatchCamelyon data: from H5 files to batches of bytes."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pcam_lightning.data.datamodule import PCamDataModule
    from pcam_lightning.data.dataset import Batch

__all__ = ["Batch", "PCamDataModule"]


def __getattr__(name: str) -> Any:
    # Imported on first use, since reading the files needs neither torch nor Lightning.
    if name == "PCamDataModule":
        from pcam_lightning.data.datamodule import PCamDataModule

        return PCamDataModule
    if name == "Batch":
        from pcam_lightning.data.dataset import Batch

        return Batch
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
