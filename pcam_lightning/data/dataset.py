"""Data sets that return whole batches of bytes."""

import warnings
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from pcam_lightning.data.cache import PatchFile
from pcam_lightning.data.files import PATCH_SHAPE
from pcam_lightning.data.h5 import DirectFile, DirectPatches


class Batch(NamedTuple):
    """B patches with labels and row numbers; pixels are the bytes on disk."""

    image: Tensor
    """uint8 [B, 96, 96, 3], RGB, 0..255."""
    label: Tensor
    """int64 [B], 1 = tumour in the center 32 x 32 pixels."""
    row: Tensor
    """int64 [B], row in the split's H5 file."""


class PatchDataset(Dataset[Batch]):
    """Patches of one split, indexed by a whole batch at a time.

    Args:
        patches: the file with the pixels.
        labels: labels of all rows of the file, int64 [N].
        rows: rows of the file in this data set, int64; None means all.
    """

    def __init__(
        self, patches: PatchFile | DirectFile, labels: np.ndarray, rows: np.ndarray | None = None
    ) -> None:
        self.patches = patches
        self.rows = np.arange(patches.rows) if rows is None else rows
        self.labels = labels[self.rows]
        self._mapped: np.ndarray | DirectPatches | None = None
        self._tensor: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def is_mapped(self) -> bool:
        """True if patches are mapped into memory rather than decoded from a file."""
        return isinstance(self.patches, PatchFile)

    @property
    def pixels(self) -> np.ndarray | DirectPatches:
        """All patches of the file, indexed by rows or by a slice."""
        if self._mapped is None:
            self._mapped = self.patches.map()
        return self._mapped

    def __getitem__(self, index: np.ndarray | list[int]) -> Batch:
        """Return the batch at these positions of `rows`, in this order."""
        rows, label = self.rows[index], torch.from_numpy(self.labels[index])
        row = torch.from_numpy(rows)
        if isinstance(self.pixels, DirectPatches):
            return Batch(torch.from_numpy(self.pixels[rows]), label, row)
        if self._tensor is None:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
                self._tensor = torch.from_numpy(np.asarray(self.pixels))
        # Unlike NumPy's indexing, this uses all of torch's threads.
        return Batch(self._tensor.index_select(0, row), label, row)

    def __getstate__(self) -> dict[str, object]:
        # A pickled memory map would copy all pixels; a worker maps the file again instead.
        return {**self.__dict__, "_mapped": None, "_tensor": None}


class ResidentDataset(Dataset[Batch]):
    """A data set in the memory of a device, which also gathers its batches."""

    def __init__(self, dataset: PatchDataset, device: torch.device) -> None:
        self.rows, self.labels, self.device = dataset.rows, dataset.labels, device
        self.label, self.row = (
            torch.from_numpy(values).to(device) for values in (dataset.labels, dataset.rows)
        )
        self.image = torch.empty((len(dataset), *PATCH_SHAPE), dtype=torch.uint8, device=device)
        for start in range(0, len(dataset), 4096):
            part = slice(start, start + 4096)
            self.image[part] = torch.from_numpy(dataset.pixels[dataset.rows[part]]).to(device)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: np.ndarray | list[int]) -> Batch:
        """Return the batch at these positions of `rows`, in this order, on the device."""
        place = torch.as_tensor(index).to(self.device, non_blocking=True)
        return Batch(self.image[place], self.label[place], self.row[place])
