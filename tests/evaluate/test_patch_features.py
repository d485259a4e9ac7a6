import colorsys
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, laplace

from pcam_lightning.evaluate.patch_features import CHUNK, PROPERTIES, measure


def flat(*colours):
    return np.array(colours, np.uint8)[:, None, None] * np.ones((1, 96, 96, 1), np.uint8)


def noise(rows=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (rows, 96, 96, 3), dtype=np.uint8)


def test_every_property_of_every_patch_in_order():
    patches = noise(2 * CHUNK + 3)
    found = measure(patches)
    assert list(found) == list(PROPERTIES)
    assert all(values.shape == (len(patches),) for values in found.values())
    assert all(values.dtype == np.float32 for values in found.values())
    last = measure(patches[-1:])
    assert all(values[-1] == last[name][0] for name, values in found.items())
    assert all(len(values) == 0 for values in measure(patches[:0]).values())


def test_brightness_is_on_the_scale_of_0_to_1_of_the_raw_bytes():
    patches = np.concatenate([noise(), flat((0, 0, 0), (255, 255, 255))])
    expected = patches.mean((1, 2, 3)) / 255
    np.testing.assert_allclose(measure(patches)["brightness"], expected, rtol=1e-6)
    assert measure(patches)["brightness"][-2:].tolist() == [0, 1]


def test_blank_is_the_share_of_glass_and_of_black():
    patch = flat((180, 90, 160))
    assert measure(patch)["blank"] == 0
    patch[0, :24] = 225  # a quarter of it glass
    patch[0, 24:48] = (230, 219, 230)  # pale, but stained
    patch[0, 48:60] = 9
    assert measure(patch)["blank"][0] == pytest.approx(0.25 + 0.125)


@pytest.mark.parametrize(
    ("colour", "hue"),
    [((0, 0, 255), 240), ((255, 0, 255), 300), ((255, 0, 0), 360), ((255, 255, 0), 420),
     ((0, 255, 0), 120), ((90, 90, 90), 300), ((200, 120, 190), 307)],
)  # fmt: skip
def test_hue_is_the_angle_on_the_colour_circle(colour, hue):
    found = float(measure(flat(colour))["hue"][0])
    assert found == pytest.approx(hue, abs=1.5)
    hexagon = 360 * colorsys.rgb_to_hsv(*colour)[0]
    if len(set(colour)) > 1:  # HSV's hexagon differs from the circle by at most 1.1 degrees
        assert (found - hexagon + 180) % 360 - 180 == pytest.approx(0, abs=1.5)


def test_hue_does_not_break_at_red():
    patch = flat((255, 0, 20))
    patch[0, :48] = (255, 20, 0)
    assert measure(patch)["hue"][0] == pytest.approx(360, abs=0.5)


def test_saturation_is_that_of_hsv():
    for colour in ((200, 100, 150), (255, 255, 255), (10, 0, 0)):
        found = measure(flat(colour))["saturation"][0]
        assert found == pytest.approx(colorsys.rgb_to_hsv(*(c / 255 for c in colour))[1])
    assert measure(flat((0, 0, 0)))["saturation"] == 0


def test_sharpness_is_the_deviation_of_the_laplacian_and_falls_with_blur():
    patches = noise()
    grey = patches.mean(3)
    expected = [laplace(each)[1:-1, 1:-1].std() for each in grey]
    np.testing.assert_allclose(measure(patches)["sharpness"], expected, rtol=1e-5)
    blurred: Any = [gaussian_filter(patches[0], (s, s, 0)) for s in (0.5, 1, 2)]
    assert (np.diff(measure(np.stack(blurred))["sharpness"]) < 0).all()
    assert measure(flat((3, 200, 7)))["sharpness"] == 0
