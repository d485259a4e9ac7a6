"""Patches decoded from their H5 file at every read, without a copy on disk."""

import os
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from pcam_lightning.data.clean import Cleaning, to_uint8
from pcam_lightning.data.files import PATCH_SHAPE, SplitFiles, open_dataset, read_rows
from pcam_lightning.data.scale import BYTES, Scale


@dataclass(frozen=True)
class DirectFile:
    """An H5 file of N patches to decode at every read. It holds no open file."""

    files: SplitFiles
    rows: int
    cleaning: Cleaning
    scale: Scale = BYTES

    @property
    def path(self) -> Path:
        return self.files.images

    def map(self) -> "DirectPatches":
        """Return the patches, to be indexed like an array."""
        return DirectPatches(self.files, self.rows, self.scale)


class DirectPatches:
    """Cleaned patches, uint8 [n, 96, 96, 3], indexed by a slice or by rows."""

    def __init__(self, files: SplitFiles, rows: int, scale: Scale = BYTES) -> None:
        self.files, self.rows, self.scale = files, rows, scale
        self._path = files.images  # kept, since finding a file takes several system calls
        self._dataset: h5py.Dataset | None = None
        self._context: AbstractContextManager[h5py.Dataset] | None = None
        self._process = 0

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, key: slice | np.ndarray) -> np.ndarray:
        wanted = np.arange(self.rows)[key] if isinstance(key, slice) else np.asarray(key)
        if not len(wanted):
            return np.empty((0, *PATCH_SHAPE), np.uint8)
        # Ascending and in runs, so that a compressed chunk is decoded once for each batch.
        rows, place = np.unique(wanted, return_inverse=True)
        runs = np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1)
        dataset = self._opened()
        parts = [read_rows(dataset, self._path, int(run[0]), int(run[-1]) + 1) for run in runs]
        return to_uint8(np.concatenate(parts), self.scale)[0][place]

    def _opened(self) -> h5py.Dataset:
        # HDF5's state does not survive a fork, so a loader's worker opens the file again.
        if self._dataset is None or self._process != os.getpid():
            self._context = open_dataset(self.files, "x")  # kept, since its exit closes the file
            self._dataset = self._context.__enter__()
            self._process = os.getpid()
        return self._dataset
