"""The PatchCamelyon files: names, shapes, checks and reading."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import h5py
import numpy as np

from pcam_lightning.data.layout import SPLITS, file_names, find_file, is_there
from pcam_lightning.data.ledger import Ledger
from pcam_lightning.data.links import find_name
from pcam_lightning.data.prefetch import prefetch_map
from pcam_lightning.data.storage import MAX_ROWS, located, source_files, stored_rows
from pcam_lightning.errors import InputError, one_line

Result = TypeVar("Result")

SPLIT_FILES = {"val": "valid", "test": "test"}
"""Name in predictions tables and metrics, and the split of the files behind it."""
PATCH_SHAPE = (96, 96, 3)
"""Height, width and RGB channels of a patch."""
SHAPES = {"x": "(N, 96, 96, 3) or (N, 3, 96, 96)", "y": "(N, 1, 1, 1)"}
"""Valid shapes, as text for messages."""
CHANNELS_FIRST = (3, 96, 96)
"""The other shape of stored patches, which are read as `PATCH_SHAPE`."""
PATCH_BYTES = 96 * 96 * 3
"""Size of a patch in uint8."""
KEYS = "null, or [images,labels] with the names of the datasets in the H5 files"
"""Valid values of `data.keys`, as text for messages."""
SPARE_BYTES = 64 * 2**20
"""Excess allowed for an HDF5 chunk over the size of its dataset; a chunk is decoded as a whole."""


@dataclass(frozen=True)
class SplitFiles:
    """The files of one split of one data set, under any name known to `data.layout`.

    `images` holds HDF5 dataset `x`, N x 96 x 96 x 3 or N x 3 x 96 x 96, any numeric dtype and
    layout; `labels` holds `y`, N values of 0 or 1 (officially N x 1 x 1 x 1); `meta` is the
    official CSV, if there is one.

    A path is that of the first existing name, the official path if there is none. An H5 file that
    exists packed only (`.h5.gz`) is unpacked when its path is asked for.
    """

    root: Path
    split: str
    keys: tuple[str, str] | None = None
    """Names of the datasets of patches and labels; None finds `x` and `y`, or the only one."""
    cache_dir: Path | None = None
    """Folder for unpacked and converted copies; None means beside the files."""

    @property
    def images(self) -> Path:
        return self.path("x")

    @property
    def labels(self) -> Path:
        return self.path("y")

    @property
    def meta(self) -> Path:
        return self.path("meta")

    def path(self, part: str) -> Path:
        """Return the path of a part: "x", "y" or "meta"; raise InputError as `find_file`."""
        return find_file(self.root, self.names(part), part, self.cache_dir)

    def names(self, part: str) -> list[str]:
        """Return the known names of a part's file; the official name, which outputs use, first."""
        return file_names(self.split, part)

    def has(self, part: str) -> bool:
        """Return whether the file of a part exists, as it is or packed."""
        return any(is_there(self.root / name) for name in self.names(part))


def split_files(
    root: str | Path, keys: Sequence[str] | None = None, cache_dir: str | Path | None = None
) -> dict[str, SplitFiles]:
    """Return the files of all splits; arguments as in `PCamDataModule`.

    Raises:
        InputError: `keys` are not two names.
    """
    cache = None if cache_dir is None else Path(os.path.expanduser(cache_dir))
    folder = Path(os.path.expanduser(root))
    return {split: SplitFiles(folder, split, declared_keys(keys), cache) for split in SPLITS}


def declared_keys(keys: Sequence[str] | None) -> tuple[str, str] | None:
    """Return the dataset names that `data.keys` declares, None if it declares none.

    Raises:
        InputError: the value is not a pair of names.
    """
    if keys is None:
        return None
    pair = isinstance(keys, Sequence) and not isinstance(keys, str) and len(keys) == 2
    if not pair or not all(isinstance(key, str) and key.strip("/.") for key in keys):
        raise InputError(f"data.keys={keys}: expected {KEYS}")
    return keys[0], keys[1]


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
    with open_dataset(files, "x") as images:
        where = f"{files.images}: {name_of(images)}"
        if images.shape[1:] != PATCH_SHAPE and not is_channels_first(images):
            raise InputError(f"{where} has shape {images.shape}, expected {SHAPES['x']}")
        if images.dtype.kind not in "uif":
            raise InputError(f"{where} has dtype {images.dtype}, expected a number")
        if images.shape[0] == 0:
            raise InputError(f"{where} has no rows, expected {SHAPES['x']} with N > 0")
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
    with open_dataset(files, "y") as dataset:
        shape, name = dataset.shape, name_of(dataset)
        if int(np.prod(shape[1:])) != 1 or dataset.dtype.kind not in "buif":
            raise InputError(
                f"{files.labels}: {name} has shape {shape} and dtype {dataset.dtype}, "
                f"expected {SHAPES['y']} and a number"
            )
        if shape[0] != rows:
            raise InputError(
                f"{files.labels}: {name} has {shape[0]} labels, expected {rows}, "
                f"one for each patch of {files.images.name}, in the shape {SHAPES['y']}"
            )
        _check_stored(dataset, files.labels, "labels")
        return read_rows(dataset, files.labels).reshape(-1)


@contextmanager
def open_dataset(files: SplitFiles, part: str) -> Iterator[h5py.Dataset]:
    """Open the patches ("x") or labels ("y") of a split; values may lie in files beside its file.

    Raises:
        InputError: the dataset is missing, has no rows, is too large to read, or has values
            outside the folder (see `data.storage`).
    """
    path = files.path(part)
    name = find_name(path, part) if files.keys is None else files.keys["xy".index(part)]
    with located(path, name) as dataset:
        if not dataset.shape:  # a scalar has the shape (), an empty dataset None
            shape = "no values" if dataset.shape is None else f"shape {dataset.shape}"
            raise InputError(f"{path}: {name} has {shape}, expected {SHAPES[part]}")
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


def name_of(dataset: h5py.Dataset) -> str:
    """Return the name of an open dataset for messages."""
    return one_line((dataset.name or "").strip("/"))


def is_channels_first(dataset: h5py.Dataset) -> bool:
    """Return whether patches are stored as N x 3 x 96 x 96."""
    return dataset.shape[1:] == CHANNELS_FIRST


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
    fact = f"{dataset.name}: {fact}"
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
    """Return rows start..stop of an open or mapped dataset, an array [rows, ...].

    Values are as stored; patches that are stored with channels first are [rows, 96, 96, 3], too.

    Raises:
        InputError: these rows cannot be read.
    """
    try:
        rows = np.asarray(dataset[start:stop])
    except OSError as error:
        raise InputError(
            f"{path}: rows from {start} on cannot be read ({one_line(error)}), "
            "expected a valid HDF5 file; is it damaged?"
        ) from None
    if rows.shape[1:] == CHANNELS_FIRST:
        return np.ascontiguousarray(rows.transpose(0, 2, 3, 1))
    return rows


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
