"""Tests of the scan of a split, on several layouts, damages and pixel scales."""

from pathlib import Path

import numpy as np
import pytest
from pcam_files import random_split, write_split
from tqdm import tqdm

from pcam_lightning.audit.scan import SplitScan, scan_split
from pcam_lightning.data.files import SplitFiles
from pcam_lightning.errors import InputError


def scanned(root: Path, split: str = "train") -> SplitScan:
    return scan_split(SplitFiles(root, split), tqdm(disable=True))


@pytest.mark.parametrize(
    ("layout", "why"),
    [
        ({}, "one byte"),
        ({"dtype": np.float32}, "float32 takes 4 bytes"),
        ({"dtype": np.float32, "chunks": (5, 96, 96, 3), "compression": "gzip"}, "gzip"),
    ],
)
def test_all_layouts_give_the_same_scan(tmp_path: Path, layout: dict, why: str) -> None:
    images, labels = random_split(90)
    images[7], images[8:10] = 3, images[0]
    write_split(tmp_path, "train", images, labels, **layout)
    scan = scanned(tmp_path)
    assert len(scan) == 90
    np.testing.assert_allclose(scan.mean, images.mean(axis=(1, 2, 3)), rtol=1e-12)
    np.testing.assert_array_equal(scan.labels, labels)
    assert (scan.low, scan.high) == (0, 255)
    assert scan.changes.total().patches == 0
    mean, std = scan.channels.mean_and_std()
    np.testing.assert_allclose(mean, images.mean(axis=(0, 1, 2)) / 255)
    np.testing.assert_allclose(std, images.std(axis=(0, 1, 2)) / 255)
    equal = (scan.content[:, None] == scan.content[None]).all(axis=2)
    group = np.arange(90)
    group[8:10] = 0
    expected = group[:, None] == group[None]
    np.testing.assert_array_equal(equal, expected)
    assert why in scan.storage["why"]
    assert scan.storage["bytes"] == scan.files.images.stat().st_size
    assert scan.storage["bytes_as_uint8"] == images.nbytes


def test_damage_is_counted_by_patch_and_excluded_from_the_range(tmp_path: Path) -> None:
    images, labels = random_split(40)
    damaged = images.astype(np.float32)
    damaged[3, 0, 0] = np.nan
    damaged[5, :2, 0, 0] = (np.inf, -np.inf)
    damaged[39, 0, :4, 0] = (-20, 1e5, 300, 2.4)
    write_split(tmp_path, "train", damaged, labels)
    scan = scanned(tmp_path)
    assert (scan.low, scan.high) == (-20, 1e5)
    assert np.flatnonzero(scan.changes.nan).tolist() == [3] and scan.changes.nan[3] == 3
    assert np.flatnonzero(scan.changes.infinite).tolist() == [5] and scan.changes.infinite[5] == 2
    assert (scan.changes.below_0[39], scan.changes.above_255[39]) == (1, 2)
    assert scan.changes.total().patches == 3


@pytest.mark.parametrize(
    ("other", "seems", "read_as"),
    [
        (lambda x: x / 255, "0-1", "0-1"),
        (lambda x: x / 127.5 - 1, "-1-1", "-1-1"),
        (lambda x: x.astype(np.uint16) * 257, "0-65535", "0-65535"),
        (lambda x: x.astype(np.int16) - 128, "minus 128", "[-128,127]"),
    ],
)
def test_patches_on_another_scale_are_converted(
    tmp_path: Path, other, seems: str, read_as: str
) -> None:
    images, labels = random_split(20)
    write_split(tmp_path, "train", other(images), labels)
    scan = scanned(tmp_path)
    assert (scan.appearance.name, str(scan.scale)) == (seems, read_as)
    np.testing.assert_allclose(scan.mean, images.mean(axis=(1, 2, 3)), rtol=1e-12)
    np.testing.assert_array_equal(scan.patches()[np.array([7, 2])], images[[7, 2]])
    assert scan.changes.total().patches == 0


@pytest.mark.parametrize(
    ("other", "seems"), [(lambda x: (x - 170) / 60, "normalized"), (lambda x: x * np.nan, "none")]
)
def test_patches_on_an_unknown_scale_are_scanned(tmp_path: Path, other, seems: str) -> None:
    images, labels = random_split(20)
    write_split(tmp_path, "train", other(images.astype(np.float32)), labels)
    scan = scanned(tmp_path)
    assert (scan.appearance.name, str(scan.scale)) == (seems, "0-255")
    assert len(scan) == scan.changes.total().patches == 20


def test_files_that_do_not_belong_together(tmp_path: Path) -> None:
    images, labels = random_split(12)
    write_split(tmp_path, "train", images, labels[:5])
    with pytest.raises(InputError, match="5 labels, expected 12"):
        scanned(tmp_path)
