"""Patches to predict from H5 files: splits of PCam, or files of any name."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pcam_lightning.data.cache import patch_file
from pcam_lightning.data.files import SplitFiles, read_labels, split_files
from pcam_lightning.data.layout import is_there
from pcam_lightning.data.prefetch import prefetch_map
from pcam_lightning.data.scale import BYTES, Scale, appearance, declared_scale, sample
from pcam_lightning.errors import InputError
from pcam_lightning.predict.patches import Patches

H5_SUFFIXES = (".h5", ".hdf5")


@dataclass
class H5Input:
    """Patches of HDF5 files in the PatchCamelyon layout."""

    files: list[SplitFiles]
    scale: Any
    """As `data.scale`."""
    skipped: list[tuple[str, str]] = field(default_factory=list)
    thumbnails: dict[str, NDArray[np.uint8]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._sources = [
            patch_file(each, cache=False, scale=_scale(each, self.scale)) for each in self.files
        ]
        self.labeled = all(each.has("y") for each in self.files)

    def __len__(self) -> int:
        return sum(source.rows for source in self._sources)

    def batches(self, size: int) -> Iterator[Patches]:
        for files, source in zip(self.files, self._sources, strict=True):
            labels, name = read_labels(files) if self.labeled else None, files.images.name

            def read(start: int, source=source, labels=labels, name=name) -> Patches:
                stop = min(start + size, source.rows)
                rows = range(start, stop)
                columns: dict[str, list[Any]] = {
                    "file": [name] * len(rows),
                    "row": list(rows),
                }
                if labels is not None:
                    columns["label"] = labels[start:stop].tolist()
                # Mapped anew for each batch: a map keeps every page in memory that was read.
                return Patches(np.array(source.map()[start:stop]), columns)

            # One thread: HDF5 reads one call at a time.
            yield from prefetch_map(read, range(0, source.rows, size), threads=1)


def _scale(files: SplitFiles, declared: Any) -> Scale:
    """Return the declared scale, else check for 0..255; raises InputError for another one."""
    if scale := declared_scale(declared):
        return scale
    seen = appearance(sample(files))
    if seen.name != "0-255":
        raise InputError(
            f"{files.images}: its pixels look {seen}, expected 0..255, or their scale declared, "
            "such as data.scale=0-1"
        )
    return BYTES


@dataclass(frozen=True)
class _NamedH5(SplitFiles):
    """An H5 file of any name; `split` holds it. Labels are in the file beside it with y for x."""

    def names(self, part: str) -> list[str]:
        stem, suffix = os.path.splitext(self.split)
        if part == "x":
            return [self.split]
        return [f"{stem[:-1]}{part}{suffix}"] if stem.endswith("x") else []


def named_h5(path: Path, keys: Sequence[str] | None, cache_dir: str | None) -> SplitFiles | None:
    """Return an H5 file, as it is or packed (`.gz`), and its labels; None for any other path.

    `keys` and `cache_dir` are those of the section `data`.
    """
    h5 = path.with_suffix("") if path.suffix == ".gz" else path
    if h5.suffix.lower() not in H5_SUFFIXES or not (is_there(h5) or os.path.lexists(path)):
        return None
    common = split_files(h5.parent, keys, cache_dir)["train"]
    return _NamedH5(common.root, h5.name, common.keys, common.cache_dir)


def h5_files(folder: Path, keys: Sequence[str] | None, cache_dir: str | None) -> list[SplitFiles]:
    """Return the files of patches in a folder: splits of PCam, and any `*_x.h5`.

    `keys` and `cache_dir` are those of the section `data`.
    """
    found = [each for each in split_files(folder, keys, cache_dir).values() if each.has("x")]
    known = {name for each in found for name in each.names("x")}
    for name in {path.name.removesuffix(".gz") for path in folder.iterdir()} - known:
        if os.path.splitext(name)[0].endswith("_x"):
            named = named_h5(folder / name, keys, cache_dir)
            found += [] if named is None else [named]
    return sorted(found, key=lambda each: each.names("x")[0])
