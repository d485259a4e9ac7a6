"""Datasets that need an HDF5 filter which h5py does not have."""

import sys
from pathlib import Path
from types import ModuleType

import h5py
import numpy as np
import pytest
from h5py import h5d, h5p, h5s, h5t, h5z  # type: ignore[attr-defined]
from pcam_files import random_split, write_split

from pcam_lightning.data.files import SplitFiles, check_split, open_dataset, read_rows, split_files
from pcam_lightning.errors import InputError

UNKNOWN = 32099  # no filter has this number


def write(path: Path, images: np.ndarray, skipped: bool) -> None:
    """Write patches behind an unknown filter, which HDF5 may skip for a chunk."""
    with h5py.File(path, "w") as file:
        plist = h5p.create(h5p.DATASET_CREATE)
        plist.set_chunk(images.shape)
        plist.set_filter(UNKNOWN, h5z.FLAG_OPTIONAL)
        space = h5s.create_simple(images.shape)
        dataset = h5d.create(file.id, b"x", h5t.NATIVE_UINT8, space, plist)
        dataset.write_direct_chunk((0, 0, 0, 0), images.tobytes(), int(skipped))


@pytest.fixture
def files(tmp_path: Path) -> SplitFiles:
    write_split(tmp_path, "train", *random_split(4))
    return SplitFiles(tmp_path, "train")


@pytest.mark.parametrize("installed", [True, False])
def test_a_missing_filter_is_one_line(files: SplitFiles, monkeypatch, installed: bool) -> None:
    module = ModuleType("hdf5plugin") if installed else None  # None raises ImportError
    monkeypatch.setitem(sys.modules, "hdf5plugin", module)
    write(files.images, random_split(4)[0], skipped=False)
    with pytest.raises(InputError) as caught:
        check_split(files)
    message = str(caught.value)
    assert files.images.name in message and str(UNKNOWN) in message
    assert "pip install hdf5plugin" in message and len(message.splitlines()) == 1


def test_a_source_of_a_virtual_dataset_needs_its_filter(files: SplitFiles) -> None:
    images = random_split(4)[0]
    write(files.root / "shard.h5", images, skipped=False)
    layout = h5py.VirtualLayout(images.shape, np.uint8)
    layout[:] = h5py.VirtualSource("shard.h5", "x", images.shape)
    with h5py.File(files.images, "w") as file:
        file.create_virtual_dataset("x", layout)
    with pytest.raises(InputError, match=rf"shard\.h5: .*{UNKNOWN}"):
        check_split(files)


def test_chunks_that_skipped_the_filter_are_read(files: SplitFiles) -> None:
    images = random_split(4)[0]
    write(files.images, images, skipped=True)
    with open_dataset(files, "x") as dataset:
        np.testing.assert_array_equal(read_rows(dataset, files.images), images)


def test_hdf5plugin_is_loaded_where_it_is_needed(tmp_path: Path) -> None:
    plugin = pytest.importorskip("hdf5plugin")
    images, labels = random_split(4)
    write_split(tmp_path, "train", images, labels, **plugin.Zstd())
    files = split_files(tmp_path)["train"]
    with open_dataset(files, "x") as dataset:
        np.testing.assert_array_equal(read_rows(dataset, files.images), images)
