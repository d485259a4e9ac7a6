import json
from pathlib import Path

import numpy as np
import pytest
from pcam_files import invert_patch, random_split, write_split

from pcam_lightning.data.cache import patch_file
from pcam_lightning.data.clean import to_uint8
from pcam_lightning.data.files import SplitFiles
from pcam_lightning.errors import InputError

LAYOUTS = {
    "contiguous": {},
    "chunked": {"chunks": (7, 96, 96, 3)},
    "gzip": {"chunks": (4, 96, 96, 3), "compression": "gzip", "compression_opts": 1},
    "float32": {"dtype": np.float32},
    "float64 gzip": {"dtype": np.float64, "chunks": (3, 96, 96, 3), "compression": "gzip"},
    "int16": {"dtype": np.int16},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_maps_to_the_same_bytes(tmp_path: Path, layout: str) -> None:
    images, labels = random_split(23)
    write_split(tmp_path, "train", images, labels, **LAYOUTS[layout])
    files = SplitFiles(tmp_path, "train")
    patches = patch_file(files)
    np.testing.assert_array_equal(patches.map(), images)
    assert (patches.path == files.images) == (layout == "contiguous")
    assert vars(patches.cleaning) == dict.fromkeys(vars(patches.cleaning), 0)


def test_damaged_floats_are_clipped_and_counted(tmp_path: Path) -> None:
    images, labels = random_split(12)
    damaged = images.astype(np.float32)
    damaged[1, 0, 0, 0] = np.nan
    damaged[2, 0, :3, 0] = (np.inf, -np.inf, 1e5)
    damaged[3, 0, 0, :2] = (-1.0, 255.6)
    damaged[4, 0, 0, 0] = 12.6
    write_split(tmp_path, "train", damaged, labels)
    patches = patch_file(SplitFiles(tmp_path, "train"))
    expected = images.copy()
    expected[1, 0, 0, 0] = 0
    expected[2, 0, :3, 0] = (255, 0, 255)
    expected[3, 0, 0, :2] = (0, 255)
    expected[4, 0, 0, 0] = 13
    np.testing.assert_array_equal(patches.map(), expected)
    assert vars(patches.cleaning) == {
        "nan": 1,
        "infinite": 2,
        "below_0": 1,
        "above_255": 2,
        "patches": 3,
    }


def test_integers_out_of_range_do_not_wrap() -> None:
    cleaned, cleaning = to_uint8(np.array([[-1, 0, 255, 256, 70_000]], dtype=np.int32))
    assert cleaned.tolist() == [[0, 0, 255, 255, 255]]
    assert (cleaning.below_0, cleaning.above_255, cleaning.patches) == (1, 2, 1)


def test_a_copy_is_made_once_and_again_when_the_source_changes(tmp_path: Path) -> None:
    images, labels = random_split(8)
    write_split(tmp_path, "train", images, labels, chunks=(2, 96, 96, 3))
    files, cache = SplitFiles(tmp_path, "train"), tmp_path / "cache"
    first = patch_file(files, cache)
    made = first.path.stat().st_mtime_ns
    assert first.path.parent == cache
    assert patch_file(files, cache).path.stat().st_mtime_ns == made
    invert_patch(files.images, 0)
    np.testing.assert_array_equal(patch_file(files, cache).map()[0], 255 - images[0])


def test_a_conversion_that_was_killed_is_made_again(tmp_path: Path) -> None:
    images, labels = random_split(8)
    write_split(tmp_path, "train", images, labels, dtype=np.float32)
    files = SplitFiles(tmp_path, "train")
    patches = patch_file(files)
    # As left behind by a kill between the array and its record.
    patches.path.with_suffix(".json").unlink()
    patches.path.write_bytes(b"half")
    np.testing.assert_array_equal(patch_file(files).map(), images)
    json.loads(patches.path.with_suffix(".json").read_text())


def test_pixels_scaled_to_one_are_refused(tmp_path: Path) -> None:
    images, labels = random_split(8)
    write_split(tmp_path, "train", images / 255, labels)
    with pytest.raises(InputError, match=r"expected pixels in 0\.\.255"):
        patch_file(SplitFiles(tmp_path, "train"))
    assert not list(tmp_path.glob(".uint8/*.npy"))


def test_a_cache_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    images, labels = random_split(4)
    write_split(tmp_path, "train", images, labels, dtype=np.float32)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"data\.cache_dir"):
        patch_file(SplitFiles(tmp_path, "train"), tmp_path / "file")
