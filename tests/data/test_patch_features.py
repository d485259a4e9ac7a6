"""Tests of the patch features, compared with independent implementations."""

import colorsys
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, laplace

from pcam_lightning.data.patch_features import CHUNK, FEATURES, compute


def flat(*colors):
    return np.array(colors, np.uint8)[:, None, None] * np.ones((1, 96, 96, 1), np.uint8)


def noise(rows=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (rows, 96, 96, 3), dtype=np.uint8)


def test_all_features_of_all_patches_in_order():
    patches = noise(2 * CHUNK + 3)
    found = compute(patches)
    assert list(found) == list(FEATURES)
    assert all(values.shape == (len(patches),) for values in found.values())
    assert all(values.dtype == np.float32 for values in found.values())
    last = compute(patches[-1:])
    assert all(values[-1] == last[name][0] for name, values in found.items())
    assert all(len(values) == 0 for values in compute(patches[:0]).values())


def test_brightness_is_between_0_and_1():
    patches = np.concatenate([noise(), flat((0, 0, 0), (255, 255, 255))])
    expected = patches.mean((1, 2, 3)) / 255
    np.testing.assert_allclose(compute(patches)["brightness"], expected, rtol=1e-6)
    assert compute(patches)["brightness"][-2:].tolist() == [0, 1]


def test_blank_is_the_share_of_glass_and_black():
    patch = flat((180, 90, 160))
    assert compute(patch)["blank"] == 0
    patch[0, :24] = 225  # a quarter is glass
    patch[0, 24:48] = (230, 219, 230)  # pale, but stained
    patch[0, 48:60] = 9
    assert compute(patch)["blank"][0] == pytest.approx(0.25 + 0.125)


@pytest.mark.parametrize(
    ("color", "hue"),
    [((0, 0, 255), 240), ((255, 0, 255), 300), ((255, 0, 0), 360), ((255, 255, 0), 420),
     ((0, 255, 0), 120), ((90, 90, 90), 300), ((200, 120, 190), 307)],
)  # fmt: skip
def test_hue_is_the_angle_on_the_color_circle(color, hue):
    found = float(compute(flat(color))["hue"][0])
    assert found == pytest.approx(hue, abs=1.5)
    hexagon = 360 * colorsys.rgb_to_hsv(*color)[0]
    if len(set(color)) > 1:  # HSV's hue differs from the circle's by at most 1.1 degrees
        assert (found - hexagon + 180) % 360 - 180 == pytest.approx(0, abs=1.5)


def test_hue_is_continuous_at_red():
    patch = flat((255, 0, 20))
    patch[0, :48] = (255, 20, 0)
    assert compute(patch)["hue"][0] == pytest.approx(360, abs=0.5)


def test_saturation_is_hsv_saturation():
    for color in ((200, 100, 150), (255, 255, 255), (10, 0, 0)):
        found = compute(flat(color))["saturation"][0]
        assert found == pytest.approx(colorsys.rgb_to_hsv(*(c / 255 for c in color))[1])
    assert compute(flat((0, 0, 0)))["saturation"] == 0


def test_sharpness_is_the_deviation_of_the_laplacian():
    patches = noise()
    gray = patches.mean(3)
    expected = [laplace(each)[1:-1, 1:-1].std() for each in gray]
    np.testing.assert_allclose(compute(patches)["sharpness"], expected, rtol=1e-5)
    blurred: Any = [gaussian_filter(patches[0], (s, s, 0)) for s in (0.5, 1, 2)]
    assert (np.diff(compute(np.stack(blurred))["sharpness"]) < 0).all()
    assert compute(flat((3, 200, 7)))["sharpness"] == 0
