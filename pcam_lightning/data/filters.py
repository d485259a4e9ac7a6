"""Compression filters of HDF5 datasets, which `hdf5plugin` provides where h5py has none."""

import importlib
from contextlib import suppress
from typing import Any

import h5py
from h5py import h5z  # type: ignore[attr-defined]

from pcam_lightning.errors import InputError, one_line


def check_filters(dataset: h5py.Dataset) -> None:
    """Load `hdf5plugin` if an open dataset needs a filter that h5py lacks.

    Raises:
        InputError: the filter is not available.
    """
    if dataset.chunks is None:
        return
    plist = dataset.id.get_create_plist()
    filters = [plist.get_filter(place) for place in range(plist.get_nfilters())]
    for place, (number, _, _, name) in enumerate(filters):
        if h5z.filter_avail(number):
            continue
        with suppress(ImportError):
            importlib.import_module("hdf5plugin")  # registers its filters
        if not h5z.filter_avail(number) and _is_used(dataset, place):
            label = one_line(name.decode(errors="replace"), 60)
            raise InputError(
                f"{dataset.file.filename}: {(dataset.name or '').strip('/')} is compressed by the "
                f"HDF5 filter {number}{label and f' ({label})'}, which is not installed; expected "
                "a known filter (pip install hdf5plugin)"
            )


def _is_used(dataset: h5py.Dataset, place: int) -> bool:
    """Return whether any chunk has passed this filter; HDF5 may store chunks without one."""
    used: list[int] = []

    def visit(chunk: Any) -> bool | None:
        if not chunk.filter_mask & (1 << place):
            used.append(place)
        return bool(used) or None

    dataset.id.chunk_iter(visit)
    return bool(used)
