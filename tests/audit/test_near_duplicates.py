"""Tests of near-duplicates: planted pairs are found with their transformation, others are not."""

import io
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from pcam_files import SPLITS, write_split
from PIL import Image
from scipy.ndimage import gaussian_filter, shift
from tqdm import tqdm

from pcam_lightning.audit import proposals
from pcam_lightning.audit.correlation import Alignment, align, shows_same_tissue, turn
from pcam_lightning.audit.landmarks import COUNT, LandmarkCoder, Landmarks, band_passed
from pcam_lightning.audit.near_duplicates import NearDuplicates, find_near_duplicates, fit_coder
from pcam_lightning.audit.proposals import propose
from pcam_lightning.audit.scan import scan_split
from pcam_lightning.data.files import SplitFiles

ROWS = 8


def texture(count: int, seed: int, side: int = 96) -> np.ndarray:
    """Return unrelated textures of blobs of the size of nuclei, uint8 [count, side, side, 3]."""
    noise = np.random.default_rng(seed).normal(size=(count, side, side, 3))
    smooth = gaussian_filter(noise, (0, 2.5, 2.5, 0))
    return np.clip(128 + 40 * smooth / smooth.std(), 0, 255).astype(np.uint8)


def encoded(patch: np.ndarray, quality: int = 75) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(patch)).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def moved(patch: np.ndarray, y: int, x: int) -> np.ndarray:
    """Move a patch down and right; noise fills the uncovered edge."""
    outside = np.iinfo(np.int32).min
    result = shift(patch.astype(np.int32), (y, x, 0), order=0, cval=outside)
    return np.where(result == outside, texture(1, 99)[0], result).astype(np.uint8)


def search(root: Path, images: dict[str, np.ndarray]) -> NearDuplicates:
    for split in SPLITS:
        write_split(root, split, images[split], np.arange(len(images[split])) % 2)
    files, bar = {split: SplitFiles(root, split) for split in SPLITS}, tqdm(disable=True)
    coder = fit_coder(files)
    scans = {split: scan_split(each, bar, coder=coder) for split, each in files.items()}
    return find_near_duplicates(scans, bar)


def findings(near: NearDuplicates) -> set[tuple[str, int, str, str, int]]:
    return set(near.table.iloc[:, :5].itertuples(index=False, name=None))


@pytest.fixture
def images() -> dict[str, np.ndarray]:
    return {split: texture(ROWS, seed) for seed, split in enumerate(SPLITS)}


# Each changes patch 2 into patch 5: the change, orientation, shift down and shift right.
@pytest.mark.parametrize(
    ("change", "orientation", "y", "x"),
    [
        (encoded, 0, 0, 0),
        (lambda patch: encoded(patch, 50), 0, 0, 0),
        (lambda patch: patch * 0.8, 0, 0, 0),
        (lambda patch: np.clip(patch * 1.1 + 10, 0, 255), 0, 0, 0),
        (lambda patch: np.rot90(patch), 1, 0, 0),
        (lambda patch: np.rot90(patch, 2), 2, 0, 0),
        (lambda patch: np.rot90(patch, 3), 3, 0, 0),
        (lambda patch: np.fliplr(patch), 4, 0, 0),
        (lambda patch: np.fliplr(np.rot90(patch)), 5, 0, 0),
        (lambda patch: np.flipud(patch), 6, 0, 0),
        (lambda patch: np.fliplr(np.rot90(patch, 3)), 7, 0, 0),
        (lambda patch: moved(patch, 4, 0), 0, 4, 0),
        (lambda patch: moved(patch, 13, -21), 0, 13, -21),
        (lambda patch: moved(patch, -24, 24), 0, -24, 24),
        (lambda patch: encoded(moved(np.fliplr(np.rot90(patch)), 16, -7), 50), 5, 16, -7),
    ],
)
def test_a_changed_patch_is_found(tmp_path: Path, images, change, orientation, y, x) -> None:
    images["train"][5] = change(images["train"][2]).astype(np.uint8)
    near = search(tmp_path, images)
    assert findings(near) == {("train", 5, "near_duplicate", "train", 2)}
    found = near.table.iloc[0]
    assert (found["orientation"], found["shift_y"], found["shift_x"]) == (orientation, y, x)
    assert found["correlation"] > 0.9
    assert near.facts["pairs_found"] == 1 and near.facts["compared"] == 3 * ROWS


def test_unrelated_patches_are_not_paired(tmp_path: Path) -> None:
    images = {split: texture(300, seed) for seed, split in enumerate(SPLITS)}
    assert search(tmp_path, images).table.empty


def test_patches_that_share_a_small_area_are_not_paired(tmp_path: Path, images) -> None:
    images["train"][5] = moved(images["train"][2], 0, 40)
    assert search(tmp_path, images).table.empty


def test_the_rules_of_exact_duplicates_hold(tmp_path: Path, images) -> None:
    """All but the first within a split, all across splits, equal patches are not near."""
    train, test = images["train"], images["test"]
    train[3] = train[1]
    train[4], train[6] = np.rot90(train[1]), encoded(train[1])
    test[0] = np.fliplr(train[1])
    near = findings(search(tmp_path, images))
    within = {finding for finding in near if finding[2] == "near_duplicate"}
    assert {finding[:2] for finding in within} == {("train", 4), ("train", 6)}
    assert all(other < row for _, row, _, _, other in within)
    across = {finding[:2] for finding in near - within}
    assert across == {("train", 1), ("train", 3), ("train", 4), ("train", 6), ("test", 0)}


def test_patches_with_little_structure_are_counted_and_not_paired(tmp_path: Path, images) -> None:
    glass = np.full((5, 96, 96, 3), 240, np.uint8)
    glass[:, 40:46, 40:46] = 90  # the same spot on empty glass
    glass[np.arange(5), 0, np.arange(5)] = 200
    images["valid"][:5] = glass
    near = search(tmp_path, images)
    assert near.table.empty
    assert (near.facts["compared"], near.facts["not_compared"]) == (3 * ROWS - 5, 5)


def test_blank_splits_are_no_error(tmp_path: Path) -> None:
    blank = np.arange(ROWS, dtype=np.uint8).repeat(96 * 96 * 3).reshape(ROWS, 96, 96, 3)
    near = search(tmp_path, dict.fromkeys(SPLITS, blank))
    assert near.table.empty and near.facts["not_compared"] == ROWS


def test_an_alignment_leads_back() -> None:
    scene = texture(1, 3, side=160)[0]
    patch = scene[32:128, 32:128]
    for orientation in range(8):
        other = scene[32 + 5 : 128 + 5, 32 - 9 : 128 - 9]  # moved by 5 and -9 it lies on the patch
        back = orientation if orientation >= 4 else -orientation % 4
        other = np.moveaxis(turn(np.moveaxis(other, -1, 0), back), 0, -1)
        first, second = band_passed(np.stack((patch, other)))
        forth = align(first, second, Alignment(orientation, 4, -8))
        assert (forth.shift_y, forth.shift_x) == (5, -9) and forth.correlation > 0.95
        assert shows_same_tissue(first, second, forth)
        returned = forth.inverse()
        again = align(second, first, returned)
        assert (again.shift_y, again.shift_x) == (returned.shift_y, returned.shift_x)
        assert again.correlation == pytest.approx(forth.correlation, abs=1e-5)
        assert returned.inverse() == forth


def test_pairs_left_out_of_large_buckets_are_counted(monkeypatch) -> None:
    patches = np.concatenate([texture(1, 0), *(encoded(texture(1, 0)[0], q)[None] for q in
                             range(50, 95, 5)), texture(20, 1)])  # fmt: skip
    landmarks = LandmarkCoder(patches)(patches)
    assert propose(landmarks).pairs_cut == 0
    monkeypatch.setattr(proposals, "LARGEST_BUCKET", 3)
    assert propose(landmarks).pairs_cut > 0


def test_the_number_of_hits_at_once_does_not_matter(monkeypatch) -> None:
    patches = texture(30, 0)
    patches = np.concatenate([patches, patches[:, ::-1], patches.swapaxes(1, 2)])
    landmarks = LandmarkCoder(patches)(patches)
    whole = propose(landmarks)
    monkeypatch.setattr(proposals, "HITS_AT_ONCE", 50)
    parts = propose(landmarks)
    assert len(whole) >= 90
    for name in ("first", "second", "orientation", "shift"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(parts, name))


def test_proposals_need_bounded_memory() -> None:
    """Codes of 2**15 unrelated patches take at most ten times their own memory to compare."""
    rng = np.random.default_rng(0)
    count = 2**15
    landmarks = Landmarks(
        rng.integers(12, 84, (count, COUNT, 2)).astype(np.uint8),
        rng.integers(0, 2**32, (count, COUNT, 4), dtype=np.uint32),
        np.ones(count, bool),
    )
    tracemalloc.start()
    assert len(propose(landmarks)) == 0
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * landmarks.code.nbytes
