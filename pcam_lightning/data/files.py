"""The PatchCamelyon files: their names, their shapes, and whether a folder holds them soundly."""

import hashlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import h5py
import numpy as np

from pcam_lightning.data.ahead import computed_ahead
from pcam_lightning.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

Result = TypeVar("Result")

log = logging.getLogger(__name__)

SPLITS = ("train", "valid", "test")
SPLIT_FILES = {"val": "valid", "test": "test"}
"""Which split's files the name of a predictions table or the prefix of a metric stands for."""
PATCH_SHAPE = (96, 96, 3)
"""Height, width and RGB channels of a patch."""
PATCH_BYTES = 96 * 96 * 3
"""Of a patch in uint8."""
CHUNK_CACHE = 16 * 2**20
"""Bytes of decoded HDF5 chunks to keep; the default, 1 MiB, holds no chunk of 38 patches."""


@dataclass(frozen=True)
class SplitFiles:
    """The files of one split of one data set.

    `images` is HDF5 dataset `x`, N x 96 x 96 x 3, any numeric dtype and layout; `labels` is `y`, N
    values of 0 or 1 (officially N x 1 x 1 x 1); `meta` is the official CSV, which may be absent.
    """

    root: Path
    split: str

    @property
    def images(self) -> Path:
        return self._file("x.h5")

    @property
    def labels(self) -> Path:
        return self._file("y.h5")

    @property
    def meta(self) -> Path:
        return self._file("meta.csv")

    def _file(self, ending: str) -> Path:
        return self.root / f"camelyonpatch_level_2_split_{self.split}_{ending}"

    def missing(self) -> list[Path]:
        return [path for path in (self.images, self.labels) if not path.is_file()]


def missing_files(root: Path) -> list[Path]:
    """Which of the six H5 files are not in `root`."""
    return [path for split in SPLITS for path in SplitFiles(root, split).missing()]


def check_split(files: SplitFiles) -> int:
    """Open both files of a split, check shapes, lengths and labels, and return the row count.

    Raises:
        InputError: a file is absent, is no sound HDF5 file, lacks its dataset, or its contents
            are not patches of 96 x 96 x 3 with one label of 0 or 1 each.
    """
    rows = check_images(files)
    labels = read_labels(files)
    if len(labels) != rows:
        raise InputError(
            f"{files.labels}: y has {len(labels)} labels, expected {rows}, "
            f"one for each patch of {files.images.name}"
        )
    return rows


def check_images(files: SplitFiles) -> int:
    """The row count of a split's patches, after a check of their shape and dtype.

    Raises:
        InputError: as in `check_split`.
    """
    with open_dataset(files.images, "x") as images:
        if images.shape[1:] != PATCH_SHAPE:
            raise InputError(f"{files.images}: x has shape {images.shape}, expected (N, 96, 96, 3)")
        if images.dtype.kind not in "uif":
            raise InputError(f"{files.images}: x has dtype {images.dtype}, expected a number")
        if images.shape[0] == 0:
            raise InputError(f"{files.images}: x has no rows, expected at least one patch")
        return images.shape[0]


def read_labels(files: SplitFiles) -> np.ndarray:
    """The labels of a split, int64 [N], 0 or 1.

    Raises:
        InputError: the file cannot be read, is not N labels, or holds anything but 0 and 1.
    """
    labels = read_raw_labels(files)
    wrong = ~np.isin(labels, (0, 1))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise InputError(f"{files.labels}: label {labels[row]} in row {row}, expected 0 or 1")
    return labels.astype(np.int64)


def read_raw_labels(files: SplitFiles) -> np.ndarray:
    """Whatever stands in a split's labels file, of any numeric dtype, [N].

    Raises:
        InputError: the file cannot be read, or is not N numbers.
    """
    with open_dataset(files.labels, "y") as dataset:
        if int(np.prod(dataset.shape[1:])) != 1 or dataset.dtype.kind not in "buif":
            raise InputError(
                f"{files.labels}: y has shape {dataset.shape} and dtype {dataset.dtype}, "
                "expected (N, 1, 1, 1) and a number"
            )
        return read_rows(dataset, files.labels).reshape(-1)


def read_slides(files: SplitFiles) -> np.ndarray | None:
    """The slide id of every row (object [N] of str), or None where `read_meta` has no table."""
    table = read_meta(files)
    return None if table is None else table["wsi"].to_numpy(dtype=object)


def read_meta(files: SplitFiles) -> "pd.DataFrame | None":
    """The columns `wsi` and, if it is there, `center_tumor_patch` of a split's meta file, as text.

    None without a meta file, and with one that cannot be used: one warning names file and reason.
    """
    if not os.path.lexists(files.meta):
        return None
    rows = check_images(files)
    try:
        return _parse_meta(files.meta, rows)
    except (ValueError, OSError) as error:
        reason = getattr(error, "strerror", None) or _reason(error)
        log.warning(
            "%s: %s; expected a CSV with the column wsi and %d lines of data; continuing without "
            "its slides",
            files.meta,
            reason,
            rows,
        )
        return None


def _parse_meta(path: Path, rows: int) -> "pd.DataFrame":
    """A meta file's table of `rows` lines; raises ValueError or OSError where it has no such."""
    import pandas as pd

    if path.exists() and not path.is_file():
        raise ValueError("no regular file")
    # Without usecols, which would accept lines of any length.
    table = pd.read_csv(path, dtype=str, nrows=rows + 1)
    if "wsi" not in table:
        raise ValueError("no column wsi")
    if len(table) != rows:
        raise ValueError("more lines of data" if len(table) > rows else f"{len(table)} lines")
    empty = table["wsi"].isna() | (table["wsi"].str.strip() == "")
    if empty.any():
        raise ValueError(f"no slide for row {int(empty.to_numpy().argmax())}")
    return table.filter(["wsi", "center_tumor_patch"])


class open_dataset:
    """Context manager: dataset `name` of an H5 file, with damage reported as `InputError`."""

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name

    def __enter__(self) -> h5py.Dataset:
        if not self.path.is_file():
            raise InputError(f"{self.path}: no such file, expected an HDF5 file with {self.name!r}")
        try:
            self.file = h5py.File(self.path, "r", rdcc_nbytes=CHUNK_CACHE)
        except OSError as error:
            raise InputError(
                f"{self.path}: not a sound HDF5 file ({_reason(error)}), expected one with "
                f"{self.name!r}; is it truncated?"
            ) from None
        dataset = self.file.get(self.name)
        if not isinstance(dataset, h5py.Dataset):
            found = ", ".join(self.file) or "nothing"
            self.file.close()
            raise InputError(f"{self.path}: no dataset {self.name!r} in it, found {found}")
        return dataset

    def __exit__(self, *_: object) -> None:
        self.file.close()


def mapped(dataset: h5py.Dataset, path: Path) -> np.ndarray | None:
    """A dataset of any dtype, read-only where it lies, or None where it is not contiguous."""
    offset = dataset.id.get_offset()
    if dataset.external or offset is None:
        return None
    return np.memmap(path, dataset.dtype, "r", offset, dataset.shape)


def chunk_rows(dataset: h5py.Dataset, size: int = 2 * 2**20) -> int:
    """How many rows to read at once: about `size` bytes, which a processor's cache holds.

    In whole HDF5 chunks, so that no compressed chunk is decoded twice.
    """
    unit = dataset.chunks[0] if dataset.chunks else 1
    row_bytes = max(1, dataset.dtype.itemsize * int(np.prod(dataset.shape[1:])))
    return max(1, size // (row_bytes * unit)) * unit


def read_rows(
    dataset: h5py.Dataset | np.ndarray, path: Path, start: int = 0, stop: int | None = None
) -> Any:
    """Rows start..stop of an open or mapped dataset as they are on disk, an array [rows, ...].

    Raises:
        InputError: the file is damaged there.
    """
    try:
        return np.asarray(dataset[start:stop])
    except OSError as error:
        raise InputError(
            f"{path}: rows {start} and up cannot be read ({_reason(error)}), "
            "expected a sound HDF5 file; is it damaged?"
        ) from None


def computed_over(
    dataset: h5py.Dataset, path: Path, function: Callable[[int, np.ndarray], Result]
) -> Iterator[Result]:
    """What `function` makes of (first row, rows as on disk), over a whole open dataset, in order.

    Threads overlap it with reading, which HDF5 does one call at a time. Raises as `read_rows`.
    """
    in_place, step = mapped(dataset, path), chunk_rows(dataset)
    source = dataset if in_place is None else in_place  # mapped, there is a copy less to make

    def compute(start: int) -> Result:
        return function(start, read_rows(source, path, start, start + step))

    return computed_ahead(compute, range(0, dataset.shape[0], step))


def file_digests(root: Path) -> dict[str, str]:
    """Name and digest (hex) of each of the six H5 files."""
    splits = [SplitFiles(root, split) for split in SPLITS]
    paths = [path for files in splits for path in (files.images, files.labels)]
    with ThreadPoolExecutor(max_workers=4) as pool:  # hashing releases the interpreter lock
        digests = list(pool.map(file_digest, paths))
    return {path.name: digest for path, digest in zip(paths, digests, strict=True)}


def fingerprint(digests: Mapping[str, str]) -> str:
    """One digest (hex) of all files of `file_digests`: the same for the same bytes anywhere."""
    return hashlib.blake2b("".join(digests.values()).encode(), digest_size=16).hexdigest()


def file_digest(path: Path) -> str:
    """BLAKE2b (hex, 32 digits) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())
