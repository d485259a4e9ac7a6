"""The PatchCamelyon files: names, shapes, checks and reading."""

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
from pcam_lightning.data.storage import MAX_ROWS, located, source_files, stored_rows
from pcam_lightning.errors import InputError, one_line

if TYPE_CHECKING:
    import pandas as pd

Result = TypeVar("Result")

log = logging.getLogger(__name__)

SPLITS = ("train", "valid", "test")
SPLIT_FILES = {"val": "valid", "test": "test"}
"""Name in predictions tables and metrics, and the split of the files behind it."""
PATCH_SHAPE = (96, 96, 3)
"""Height, width and RGB channels of a patch."""
PATCH_BYTES = 96 * 96 * 3
"""Size of a patch in uint8."""
SPARE_BYTES = 64 * 2**20
"""Excess allowed for an HDF5 chunk over the size of its dataset; a chunk is decoded as a whole."""


@dataclass(frozen=True)
class SplitFiles:
    """The files of one split of one data set.

    `images` holds HDF5 dataset `x`, N x 96 x 96 x 3, any numeric dtype and layout; `labels` holds
    `y`, N values of 0 or 1 (officially N x 1 x 1 x 1); `meta` is the official CSV, if there is one.
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
    """Return the paths of the six H5 files that are not in `root`."""
    return [path for split in SPLITS for path in SplitFiles(root, split).missing()]


def check_split(files: SplitFiles) -> int:
    """Check both files of a split without reading a pixel; return the number of rows.

    Raises:
        InputError: a file is missing, is no valid HDF5 file or lacks its dataset, the data are not
            patches of 96 x 96 x 3 with one label of 0 or 1 each, or rows were never written.
    """
    return len(read_labels(files))


def check_images(files: SplitFiles) -> int:
    """Check the shape and dtype of a split's patches; return their number.

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
    """Return the labels of a split, int64 [N], 0 or 1.

    Raises:
        InputError: as in `read_raw_labels`, or a label is neither 0 nor 1.
    """
    labels = read_raw_labels(files)
    wrong = (labels != 0) & (labels != 1)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise InputError(f"{files.labels}: label {labels[row]} in row {row}, expected 0 or 1")
    return labels.astype(np.int64)


def read_raw_labels(files: SplitFiles) -> np.ndarray:
    """Return the unchecked values of a split's labels file, any numeric dtype, [N].

    Raises:
        InputError: a file cannot be read, or does not hold N numbers for N patches.
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
    """Return the slide id of every row (object [N] of str), None if `read_meta` returns None."""
    table = read_meta(files)
    return None if table is None else table["wsi"].to_numpy(dtype=object)


def read_meta(files: SplitFiles) -> "pd.DataFrame | None":
    """Return the text columns `wsi` and, if present, `center_tumor_patch` of a split's meta file.

    Return None without a meta file, and after a warning if it cannot be used.
    """
    if not os.path.lexists(files.meta):
        return None
    rows = check_images(files)
    try:
        return _parse_meta(files.meta, rows)
    except (ValueError, OSError) as error:
        log.warning(
            "%s: %s; expected a CSV with the column wsi and %d rows; continuing without slides",
            files.meta,
            getattr(error, "strerror", None) or one_line(error),
            rows,
        )
        return None


def _parse_meta(path: Path, rows: int) -> "pd.DataFrame":
    """Return a meta file's table of `rows` rows; raise ValueError or OSError otherwise."""
    import pandas as pd

    if path.exists() and not path.is_file():
        raise ValueError("not a regular file")
    # Not usecols, which would accept lines of any length.
    table = pd.read_csv(path, dtype=str, nrows=rows + 1)
    if "wsi" not in table:
        raise ValueError("no column wsi")
    if len(table) != rows:
        raise ValueError("more rows" if len(table) > rows else f"{len(table)} rows")
    empty = table["wsi"].isna() | (table["wsi"].str.strip() == "")
    if empty.any():
        raise ValueError(f"no slide for row {int(empty.to_numpy().argmax())}")
    return table.filter(["wsi", "center_tumor_patch"])


@contextmanager
def open_dataset(path: Path, name: str) -> Iterator[h5py.Dataset]:
    """Open dataset `name` of an H5 file; its values may lie in other files of the folder.

    Raises:
        InputError: the dataset is missing, has no rows, is too large to read, or has values
            outside the folder (see `data.storage`).
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
                    f"{path}: {name} has chunks of {chunk} bytes, expected no more than its "
                    f"{dataset.nbytes} bytes"
                )
        yield dataset


def mapped(dataset: h5py.Dataset) -> np.ndarray | None:
    """Map a contiguous dataset of any dtype, read-only; return None for any other layout.

    Raises:
        InputError: the file ends before the dataset does.
    """
    offset = dataset.id.get_offset()
    if dataset.is_virtual or dataset.chunks or offset is None:
        return None
    path = Path(dataset.file.filename)
    if offset + dataset.nbytes > path.stat().st_size:
        raise InputError(f"{path}: truncated within {dataset.name}, expected a complete file")
    return np.memmap(path, dataset.dtype, "r", offset, dataset.shape)


def recall(dataset: h5py.Dataset, path: Path, fact: str, find_out: Callable[[], Any]) -> Any:
    """Return a fact about an open dataset, computed once for each version of its files.

    Args:
        dataset: the open dataset.
        path: path of its H5 file.
        fact: name of the fact (see `data.ledger`).
        find_out: computes its value, of plain JSON types.
    """
    return Ledger(path.parent).recall(source_files(dataset, path), fact, find_out)


def _check_stored(dataset: h5py.Dataset, path: Path, rows: str) -> None:
    """Raise `InputError` for rows that were never written, which HDF5 reads as zeros."""

    def count() -> int:
        return int(np.count_nonzero(~stored_rows(dataset, path)))

    if missing := recall(dataset, path, "rows without data", count):
        absent = [file.name for file in source_files(dataset, path) if not file.is_file()]
        why = f"{absent[0]} is missing" if absent else "they were never written"
        raise InputError(
            f"{path}: {missing} of {dataset.shape[0]} {rows} have no data ({why}), expected all"
        )


def chunk_rows(dataset: h5py.Dataset, size: int = 2 * 2**20) -> int:
    """Return the number of rows to read at once: about `size` bytes, which fit a CPU's cache.

    It is a multiple of the HDF5 chunk's rows, so that no compressed chunk is decoded twice.
    """
    unit = dataset.chunks[0] if dataset.chunks else 1
    row_bytes = max(1, dataset.dtype.itemsize * int(np.prod(dataset.shape[1:])))
    return max(1, size // (row_bytes * unit)) * unit


def read_rows(
    dataset: h5py.Dataset | np.ndarray, path: Path, start: int = 0, stop: int | None = None
) -> Any:
    """Return rows start..stop of an open or mapped dataset as stored, an array [rows, ...].

    Raises:
        InputError: these rows cannot be read.
    """
    try:
        return np.asarray(dataset[start:stop])
    except OSError as error:
        raise InputError(
            f"{path}: rows from {start} on cannot be read ({one_line(error)}), "
            "expected a valid HDF5 file; is it damaged?"
        ) from None


def map_chunks(
    dataset: h5py.Dataset, path: Path, function: Callable[[int, np.ndarray], Result]
) -> Iterator[Result]:
    """Yield `function(first row, rows as stored)` for all chunks of an open dataset, in order.

    Threads overlap it with reading, which HDF5 does one call at a time. Raises as `read_rows`.
    """
    in_place, step = mapped(dataset), chunk_rows(dataset)
    source = dataset if in_place is None else in_place  # a map saves a copy

    def compute(start: int) -> Result:
        return function(start, read_rows(source, path, start, start + step))

    return prefetch_map(compute, range(0, dataset.shape[0], step))
