"""Storage of HDF5 datasets: the files that hold the values, and the rows without values.

In HDF5, a file may take its values from any other file, and values that were never written are
read as a fill value. Here, values may only come from HDF5 files of the dataset's folder, and rows
without values are detected.
"""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5d, h5s  # type: ignore[attr-defined]

from pcam_lightning.data.filters import check_filters
from pcam_lightning.data.links import NoDataset, find_dataset, linked_path
from pcam_lightning.errors import InputError

MAX_ROWS = 2**26
"""Rows of the largest readable dataset: 1.9 TB of patches in uint8."""
MAX_DEPTH = 8
"""Maximum nesting of virtual datasets."""


@contextmanager
def located(path: Path, name: str) -> Iterator[h5py.Dataset]:
    """Open the dataset `name` of an H5 file; follow links within its folder.

    `dataset.file.filename` is the absolute path of the file that holds the dataset.

    Raises:
        InputError: the file is no valid HDF5 file or lacks the dataset, or values lie outside of
            the file's folder, or in a file that is not HDF5.
    """
    dataset = find_dataset(path.resolve(), name, path.resolve().parent)
    with closing(dataset.file):
        source_files(dataset, path)
        yield dataset


def source_files(dataset: h5py.Dataset, path: Path) -> list[Path]:
    """Return all files with values of an open dataset; some may be missing.

    Args:
        dataset: the open dataset.
        path: the requested H5 file; links and sources may lead to other files of its folder.

    Raises:
        InputError: a source lies outside the folder, is no HDF5 file, is the dataset itself, or is
            compressed by a filter that is not installed.
    """
    files = dict.fromkeys([path.resolve()])
    _collect(dataset, path.resolve().parent, files, ())
    return list(files)


def stored_rows(dataset: h5py.Dataset, path: Path) -> np.ndarray:
    """Return which rows of an open dataset hold values rather than fill values. bool [N].

    HDF5 does not record partial writes: a chunk counts as a whole, and so does a fill value that
    was written. Arguments and errors as in `source_files`.
    """
    return _stored(dataset, path.resolve().parent)


def _stored(dataset: h5py.Dataset, folder: Path) -> np.ndarray:
    rows, row_size = dataset.shape[0], int(np.prod(dataset.shape[1:]))
    if dataset.is_virtual:
        return _count_virtual(dataset, folder) >= row_size
    if dataset.chunks:
        return _count_chunks(dataset) >= row_size
    return np.full(rows, dataset.id.get_space_status() != h5d.SPACE_STATUS_NOT_ALLOCATED)


def _count_chunks(dataset: h5py.Dataset) -> np.ndarray:
    """Return the number of values of each row in stored chunks. int64 [N]."""
    counts = np.zeros(dataset.shape[0], np.int64)
    shape, size = dataset.shape, dataset.chunks or dataset.shape

    def add(chunk: Any) -> None:
        extent = np.minimum(np.subtract(shape, chunk.chunk_offset), size)
        first = chunk.chunk_offset[0]
        counts[first : first + int(extent[0])] += int(np.prod(extent[1:]))

    dataset.id.chunk_iter(add)
    return counts


def _count_virtual(dataset: h5py.Dataset, folder: Path) -> np.ndarray:
    """Return the number of values of each row in the sources. int64 [N]."""
    counts = np.zeros(dataset.shape[0], np.int64)
    known: dict[tuple[Path, str], tuple[np.ndarray, tuple[int, ...]]] = {}
    for mapping in dataset.virtual_sources():
        key = linked_path(dataset.file, mapping.file_name, folder), mapping.dset_name
        if key not in known:
            with _opened_source(*key, folder) as source:
                known[key] = np.zeros(0, bool), ()
                if source is not None:
                    known[key] = _stored(source, folder), source.shape
        rows, values = _selected(mapping.vspace, len(counts), dataset.shape)
        inside = rows < len(counts)  # rows behind the end are never read
        stored = _source_rows(mapping.src_space, len(rows), dataset.ndim, *known[key])
        counts[rows[inside]] += (values * stored)[inside]
    return counts


def _source_rows(
    selection: h5s.SpaceID, length: int, rank: int, stored: np.ndarray, shape: tuple[int, ...]
) -> np.ndarray:
    """Return which virtual rows of a mapping the source holds. bool [length].

    Args:
        selection: selected elements of the source.
        length: number of virtual rows.
        rank: number of dimensions of the virtual dataset.
        stored: rows of the source that hold values, bool.
        shape: shape of the source, () if it is missing.
    """
    if not len(stored):
        return np.zeros(length, bool)
    if selection.get_select_type() == h5s.SEL_ALL:
        rows = np.arange(length if len(shape) == rank else shape[0])
    else:
        ends = _ends(selection)[1:]
        if len(ends) != len(shape) - 1 or any(np.greater(ends, shape[1:])):
            return np.zeros(length, bool)
        rows, _ = _selected(selection, length, shape)
    held = (rows < len(stored)) & stored[np.minimum(rows, len(stored) - 1)]
    # Rows that are split or joined have no single source row each.
    return held if len(held) == length else np.full(length, held.all())


def _selected(
    selection: h5s.SpaceID, length: int, shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of a selection, and the number of values in each. int64 [n] both.

    Args:
        selection: selected elements of a dataset.
        length: rows to take from an unlimited selection.
        shape: shape of the dataset, for a selection of all elements.
    """
    kind = selection.get_select_type()
    if kind == h5s.SEL_ALL:
        return np.arange(shape[0]), np.full(shape[0], np.prod(shape[1:]), np.int64)
    if kind != h5s.SEL_HYPERSLABS:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    if selection.is_regular_hyperslab():
        start, stride, count, block = selection.get_regular_hyperslab()
        limit = length if h5s.UNLIMITED in (count[0], block[0]) else MAX_ROWS
        size = min(block[0], limit)
        first = start[0] + stride[0] * np.arange(min(count[0], -(-limit // size)))
        rows = (first[:, None] + np.arange(size)).reshape(-1)[:limit]
        return rows, np.full(len(rows), np.prod(count[1:]) * np.prod(block[1:]), np.int64)
    blocks = selection.get_select_hyper_blocklist().astype(np.int64)  # first and last corners
    values = np.prod(blocks[:, 1, 1:] - blocks[:, 0, 1:] + 1, axis=1)
    spans = [np.arange(first, last + 1) for first, last in blocks[:, :, 0]]
    rows, place = np.unique(np.concatenate(spans), return_inverse=True)
    return rows, np.bincount(place, np.repeat(values, [*map(len, spans)])).astype(np.int64)


def _ends(selection: h5s.SpaceID) -> list[int]:
    """Return the end of a hyperslab in each dimension."""
    if selection.is_regular_hyperslab():
        parts = zip(*selection.get_regular_hyperslab(), strict=True)
        return [start + stride * (count - 1) + block for start, stride, count, block in parts]
    return [last + 1 for last in selection.get_select_bounds()[1]]


def _collect(
    dataset: h5py.Dataset,
    folder: Path,
    files: dict[Path, None],
    parents: tuple[tuple[str, str], ...],
    done: set[tuple[Path, str]] | None = None,
) -> None:
    """Add the files with values of a dataset to `files`."""
    done = set() if done is None else done
    path, name = key = dataset.file.filename, dataset.name or ""
    files[Path(path)] = None
    if dataset.external:
        raise InputError(
            f"{path}: the values of {name} lie in the file {dataset.external[0][0]!r}, "
            "expected them in an HDF5 file"
        )
    check_filters(dataset)
    if not dataset.is_virtual:
        return
    if key in parents or len(parents) == MAX_DEPTH:
        raise InputError(
            f"{path}: {name} is a virtual dataset of itself or nested more than {MAX_DEPTH} deep"
        )
    for file_name, source_name in dict.fromkeys(
        (mapping.file_name, mapping.dset_name) for mapping in dataset.virtual_sources()
    ):
        source_path = linked_path(dataset.file, file_name, folder)
        files[source_path] = None
        with _opened_source(source_path, source_name, folder) as source:
            if source is not None and (key := (source_path, source_name)) not in done:
                _collect(source, folder, files, (*parents, (path, name)), done)
                done.add(key)


@contextmanager
def _opened_source(path: Path, name: str, folder: Path) -> Iterator[h5py.Dataset | None]:
    """Open a source of a virtual dataset; yield None if it is missing."""
    try:
        source = find_dataset(path, name, folder) if path.exists() else None
    except NoDataset:
        source = None
    if source is None or not source.shape:
        yield None
        return
    with closing(source.file):
        yield source
