"""Rows of a split to batches of bytes."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from pcam_lightning.data.cache import PatchFile


class Batch(NamedTuple):
    """B patches as they are on disk."""

    image: Tensor
    """uint8 [B, 96, 96, 3], RGB, 0..255."""
    label: Tensor
    """int64 [B], 1 = tumour in the centre 32 x 32 pixels."""
    row: Tensor
    """int64 [B], row in the split's H5 file."""


class PatchDataset(Dataset[Batch]):
    """Patches of one split, fetched a whole batch at a time.

    Args:
        patches: where the pixels lie.
        labels: int64 [N], of every row of the file.
        rows: the rows that belong to this data set, int64; None means all of them.
    """

    def __init__(
        self, patches: PatchFile, labels: np.ndarray, rows: np.ndarray | None = None
    ) -> None:
        self.patches = patches
        self.rows = np.arange(patches.rows) if rows is None else rows
        self.labels = labels[self.rows]
        self._mapped: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Sequence[int]) -> Batch:
        """The batch at these positions of `rows`, in this order."""
        if self._mapped is None:
            self._mapped = self.patches.map()
        rows = self.rows[index]
        return Batch(
            torch.from_numpy(self._mapped[rows]),
            torch.from_numpy(self.labels[index]),
            torch.from_numpy(rows),
        )

    def __getstate__(self) -> dict[str, object]:
        # A pickled memory map is a copy of all its pixels; a worker maps the file again instead.
        return {**self.__dict__, "_mapped": None}
