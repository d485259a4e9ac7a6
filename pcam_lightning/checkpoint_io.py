"""Checkpoint files that are whole, or the ones before."""

import io
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from pcam_lightning.errors import InputError
from pcam_lightning.runs.record import write_bytes


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the checkpoint and renames, so that a kill or a full disk costs nothing.

    Lightning's own (2.6) writes to the system's temporary folder and moves from there. Where that
    is another disk, as on most clusters, the move is a copy, and a kill leaves half a file.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Raises InputError where the disk has no room or the folder cannot be written."""
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            write_bytes(Path(path), buffer.getvalue())
        except OSError as error:
            raise InputError(
                f"{path}: a checkpoint of {buffer.tell() / 1e6:.1f} MB cannot be written "
                f"({error.strerror or error}); the one before is whole, expected room on the disk"
            ) from None
