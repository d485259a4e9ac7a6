"""Small splits in the official file format."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np

SPLITS = ("train", "valid", "test")


def write_split(
    root: Path, split: str, images: np.ndarray, labels: np.ndarray, **layout: Any
) -> None:
    """Write a split in the official format; `layout` is passed to h5py's create_dataset."""
    root.mkdir(parents=True, exist_ok=True)
    stem = root / f"camelyonpatch_level_2_split_{split}"
    with h5py.File(f"{stem}_x.h5", "w") as file:
        file.create_dataset("x", data=images, **layout)
    with h5py.File(f"{stem}_y.h5", "w") as file:
        file.create_dataset("y", data=labels.reshape(-1, 1, 1, 1).astype(np.uint8))


def invert_patch(path: Path, row: int) -> None:
    """Replace one patch of an images file by its negative."""
    with h5py.File(path, "r+") as file:
        dataset = file["x"]
        assert isinstance(dataset, h5py.Dataset)
        dataset[row] = 255 - dataset[row]


def random_split(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return patches of noise, uint8 [rows, 96, 96, 3], and labels: every third is 1."""
    generator = np.random.default_rng(seed)
    return generator.integers(0, 256, (rows, 96, 96, 3), dtype=np.uint8), np.arange(rows) % 3 == 0
