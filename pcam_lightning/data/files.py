"""The PatchCamelyon files: their names, their shapes, and whether a folder holds them soundly."""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import h5py
import numpy as np

from pcam_lightning.data.ledger import Ledger
from pcam_lightning.data.prefetch import prefetch_map
from pcam_lightning.data.storage import MAX_ROWS, located, reason, source_files, stored_rows
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
SPARE_BYTES = 64 * 2**20
"""By how much an HDF5 chunk, which is decoded whole, may be larger than its dataset."""


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
    """Open both files of a split, check that they are sound, and return the row count.

    No pixel is read.

    Raises:
        InputError: a file is absent, is no sound HDF5 file, lacks its dataset, its contents are not
            patches of 96 x 96 x 3 with one label of 0 or 1 each, or rows were never written.
    """
    return len(read_labels(files))


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
        _check_stored(images, files.images, "patches")
        return images.shape[0]


def read_labels(files: SplitFiles) -> np.ndarray:
    """The labels of a split, int64 [N], 0 or 1.

    Raises:
        InputError: as in `read_raw_labels`, or where one is neither 0 nor 1.
    """
    labels = read_raw_labels(files)
    wrong = (labels != 0) & (labels != 1)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise InputError(f"{files.labels}: label {labels[row]} in row {row}, expected 0 or 1")
    return labels.astype(np.int64)


def read_raw_labels(files: SplitFiles) -> np.ndarray:
    """Whatever stands in a split's labels file, of any numeric dtype, [N].

    Raises:
        InputError: a file cannot be read, or is not N numbers for N patches.
    """
    rows = check_images(files)
    with open_dataset(files.labels, "y") as dataset:
        shape = dataset.shape
        if int(np.prod(shape[1:])) != 1 or dataset.dtype.kind not in "buif":
            raise InputError(
                f"{files.labels}: y has shape {shape} and dtype {dataset.dtype}, "
                "expected (N, 1, 1, 1) and a number"
            )
        if shape[0] != rows:
            raise InputError(
                f"{files.labels}: y has {shape[0]} labels, expected {rows}, "
                f"one for each patch of {files.images.name}"
            )
        _check_stored(dataset, files.labels, "labels")
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
        log.warning(
            "%s: %s; expected a CSV with the column wsi and %d lines of data; continuing without "
            "its slides",
            files.meta,
            getattr(error, "strerror", None) or reason(error),
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


@contextmanager
def open_dataset(path: Path, name: str) -> Iterator[h5py.Dataset]:
    """Open dataset `name` of an H5 file, whose values may lie in other files of its folder.

    Raises:
        InputError: there is none, it is no array of rows, it is larger than anything that can be
            read, or its values lie elsewhere (see `data.storage`).
    """
    with located(path, name) as dataset:
        if not dataset.shape and dataset.shape != (0,):
            raise InputError(f"{path}: {name} has shape {dataset.shape}, expected rows")
        if dataset.shape[0] > MAX_ROWS:
            raise InputError(
                f"{path}: {name} has {dataset.shape[0]} rows, expected at most {MAX_ROWS}"
            )
        if dataset.chunks:
            chunk = dataset.dtype.itemsize * int(np.prod(dataset.chunks))
            if chunk > dataset.nbytes + SPARE_BYTES:
                raise InputError(
                    f"{path}: {name} lies in chunks of {chunk} bytes, expected no more than its "
                    f"{dataset.nbytes} bytes"
                )
        yield dataset


def mapped(dataset: h5py.Dataset) -> np.ndarray | None:
    """A dataset of any dtype, read-only where it lies, or None where it is not contiguous.

    Raises:
        InputError: the file ends before it.
    """
    offset = dataset.id.get_offset()
    if dataset.is_virtual or dataset.chunks or offset is None:
        return None
    path = Path(dataset.file.filename)
    if offset + dataset.nbytes > path.stat().st_size:
        raise InputError(f"{path}: it ends within {dataset.name}, expected it whole")
    return np.memmap(path, dataset.dtype, "r", offset, dataset.shape)


def recall(dataset: h5py.Dataset, path: Path, fact: str, find_out: Callable[[], Any]) -> Any:
    """Return a fact about an open dataset of an H5 file, found out when the file is new or changed.

    Args:
        fact: its name (see `data.ledger`).
        find_out: returns its value, of plain JSON.
    """
    return Ledger(path.parent).recall(source_files(dataset, path), fact, find_out)


def _check_stored(dataset: h5py.Dataset, path: Path, rows: str) -> None:
    """Raise `InputError` where rows were never written, which HDF5 reads as zeros."""

    def count() -> int:
        return int(np.count_nonzero(~stored_rows(dataset, path)))

    if missing := recall(dataset, path, "rows without data", count):
        absent = [file.name for file in source_files(dataset, path) if not file.is_file()]
        why = f"{absent[0]} is missing" if absent else "they were never written"
        raise InputError(
            f"{path}: {missing} of {dataset.shape[0]} {rows} have no data ({why}), expected all"
        )


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
            f"{path}: rows {start} and up cannot be read ({reason(error)}), "
            "expected a sound HDF5 file; is it damaged?"
        ) from None


def map_chunks(
    dataset: h5py.Dataset, path: Path, function: Callable[[int, np.ndarray], Result]
) -> Iterator[Result]:
    """What `function` makes of (first row, rows as on disk), over a whole open dataset, in order.

    Threads overlap it with reading, which HDF5 does one call at a time. Raises as `read_rows`.
    """
    in_place, step = mapped(dataset), chunk_rows(dataset)
    source = dataset if in_place is None else in_place  # mapped, there is a copy less to make

    def compute(start: int) -> Result:
        return function(start, read_rows(source, path, start, start + step))

    return prefetch_map(compute, range(0, dataset.shape[0], step))
