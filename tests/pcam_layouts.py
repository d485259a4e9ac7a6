"""Layouts that people have the official files in; each function changes the files of a folder."""

import gzip
from pathlib import Path

import h5py
import numpy as np
from pcam_files import SPLITS

STEM = "camelyonpatch_level_2_split_"
KAGGLE = {"train": "training", "valid": "validation", "test": "test"}


def kaggle(root: Path) -> None:
    """Move the files to their places in Kaggle's copy."""
    for split, name in KAGGLE.items():
        for old, new in (
            (f"{STEM}{split}_x.h5", f"pcam/{name}_split.h5"),
            (f"{STEM}{split}_y.h5", f"Labels/Labels/{STEM}{split}_y.h5"),
            (f"{STEM}{split}_meta.csv", f"Metadata/Metadata/{STEM}{split}_meta.csv"),
        ):
            (root / new).parent.mkdir(parents=True, exist_ok=True)
            if (root / old).exists():
                (root / old).rename(root / new)


def flat_kaggle(root: Path) -> None:
    """Give the images their names in Kaggle's copy."""
    for split, name in KAGGLE.items():
        (root / f"{STEM}{split}_x.h5").rename(root / f"{name}_split.h5")


def packed(root: Path) -> None:
    """Replace all H5 files by packed ones."""
    for path in root.rglob("*.h5"):
        Path(f"{path}.gz").write_bytes(gzip.compress(path.read_bytes(), 1))
        path.unlink()


def packed_kaggle(root: Path) -> None:
    kaggle(root)
    packed(root)


def channels_first(root: Path, **layout) -> None:
    """Store the patches as N x 3 x 96 x 96."""
    for split in SPLITS:
        with h5py.File(root / f"{STEM}{split}_x.h5", "r+") as file:
            pixels = np.moveaxis(file["x"][:], -1, 1)  # type: ignore[index]
            del file["x"]
            file.create_dataset("x", data=pixels, **layout)


def compressed_channels_first(root: Path) -> None:
    channels_first(root, compression="gzip")


def only_datasets(root: Path) -> None:
    """Give the datasets a name that can be found."""
    rename(root, "data/values", "data/values")


def declared_datasets(root: Path) -> None:
    """Name the datasets `images` and `targets`, and add others."""
    rename(root, "images", "targets")
    for path in root.glob("*.h5"):
        with h5py.File(path, "r+") as file:
            file["more"] = np.zeros(3)


def rename(root: Path, images: str, labels: str) -> None:
    """Rename the datasets of all files."""
    for split in SPLITS:
        for part, name in (("x", images), ("y", labels)):
            with h5py.File(root / f"{STEM}{split}_{part}.h5", "r+") as file:
                file.move(part, name)
