"""Cells of the demo set: their shapes, and the places that decide the label."""

import numpy as np
import pytest
from scipy.spatial import ConvexHull

from pcam_lightning.data.demo import cells, nests

CENTER = slice(32, 64)


@pytest.fixture(scope="module")
def sprites() -> np.ndarray:
    return cells.draw_sprites(np.random.default_rng(0)).lobed


@pytest.fixture(scope="module")
def placed() -> tuple[np.ndarray, nests.Nests]:
    labels = (np.arange(2000) % 2).astype(np.uint8)
    return labels == 1, nests.place_nests(np.random.default_rng(0), labels)


def tumour_in_center(placed: nests.Nests, sprites: np.ndarray) -> np.ndarray:
    """Return the darkest pixel of tumour nuclei in each patch's center, copied one by one."""
    reach = sprites.shape[1] // 2
    found = np.zeros(len(placed.row))
    for patch, site in zip(*np.nonzero(placed.tumour), strict=True):
        canvas = np.zeros((96 + 4 * reach, 96 + 4 * reach))
        y, x = placed.row[patch, site] + reach, placed.column[patch, site] + reach
        sprite = sprites[int(placed.shape[patch, site] * len(sprites))]
        canvas[y : y + 2 * reach + 1, x : x + 2 * reach + 1] = sprite
        inner = canvas[2 * reach : -2 * reach, 2 * reach : -2 * reach]
        found[patch] = max(found[patch], inner[CENTER, CENTER].max())
    return found


def test_tumour_is_in_the_center_of_positives_and_of_no_negative(placed, sprites) -> None:
    positive, where = placed
    darkest = tumour_in_center(where, sprites)
    assert (darkest[positive] > 0.3).all()
    assert not darkest[~positive].any()
    total = where.tumour.sum(axis=1)
    assert abs(total[positive].mean() - total[~positive].mean()) < 2
    assert (total[~positive] > 0).mean() > 0.8


def test_some_centers_are_only_touched_by_one_or_two_cells(placed) -> None:
    positive, where = placed
    middle = (where.row >= 32) & (where.row < 64) & (where.column >= 32) & (where.column < 64)
    inside = (where.tumour & middle).sum(axis=1)[positive]
    assert 0.1 < (inside == 0).mean() < 0.2
    assert set(inside) == {0, 2, 3, 4}


def test_shapes_are_a_continuum_of_which_ambiguous_ones_are_frequent(placed) -> None:
    _, where = placed
    for kind in (where.tumour, where.here & ~where.tumour):
        distance = abs(where.shape[kind] - 0.5)
        counts, _ = np.histogram(distance, bins=4, range=(0, 0.5))
        assert (np.diff(counts) < 0).all() and counts[-1] > 0.1 * counts.sum()
        assert distance.min() >= 0.02 - 1e-9


def test_a_tumour_cell_is_one_round_nucleus_and_a_histiocyte_has_a_waist(sprites) -> None:
    def solidity(sprite: np.ndarray) -> float:
        inside = sprite > 0.2
        points = np.argwhere(inside)
        corners = np.concatenate([points + d for d in ((0, 0), (0, 1), (1, 0), (1, 1))])
        return inside.sum() / ConvexHull(corners).volume

    mean = [np.mean([solidity(s) for s in part]) for part in sprites.reshape(8, -1, 27, 27)]
    assert np.ptp(mean[:3]) < 0.03  # one nucleus, as convex as pixels allow
    assert (np.diff(mean[3:]) < 0).all() and mean[-1] < mean[0] - 0.08


def test_stain_and_area_do_not_depend_on_shape(sprites) -> None:
    total, area = sprites.sum(axis=(1, 2)), (sprites > 0.2).sum(axis=(1, 2))
    for values in (total, area):
        parts = values.reshape(8, -1).mean(axis=1)
        assert np.ptp(parts) < 0.12 * parts.mean()
