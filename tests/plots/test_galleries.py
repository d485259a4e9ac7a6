import numpy as np
import pytest
from matplotlib.image import imread

from pcam_lightning.plots.galleries import heat, plot_gallery


def random_patches(count):
    return np.random.default_rng(0).integers(256, size=(count, 96, 96, 3), dtype=np.uint8)


def pixels(path):
    return np.round(imread(path)[..., :3] * 255).astype(np.uint8)


def find(picture, pattern):
    """Top and left of the only place where a [h, w, 3] pattern occurs in a picture."""
    h, w, _ = pattern.shape
    places = [
        (int(y), int(x))
        for y, x in np.argwhere((picture == pattern[0, 0]).all(axis=2))
        if np.array_equal(picture[y : y + h, x : x + w], pattern)
    ]
    assert len(places) == 1
    return places[0]


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_pixels_are_true_and_in_reading_order(tmp_path, scale):
    patches = random_patches(5)
    path = tmp_path / "gallery.png"
    plot_gallery(path, patches, ["one line\nand another"] * 5, "a title", columns=3, scale=scale)
    assert list(tmp_path.iterdir()) == [path]
    picture = pixels(path)
    corners = []
    for patch in patches:
        enlarged = np.kron(patch, np.ones((scale, scale, 1), dtype=np.uint8))
        top = find(picture, enlarged[: 20 * scale])
        bottom = find(picture, enlarged[76 * scale :])
        center = find(picture, enlarged[32 * scale : 64 * scale, 32 * scale : 64 * scale])
        assert np.subtract(bottom, top).tolist() == [76 * scale, 0]
        assert np.subtract(center, top).tolist() == [32 * scale, 32 * scale]
        corners.append(top)
    rows, lefts = zip(*corners, strict=True)
    assert rows[0] == rows[1] == rows[2] < rows[3] == rows[4]
    assert lefts[0] == lefts[3] < lefts[1] == lefts[4] < lefts[2]


def test_the_center_is_outlined_on_black_and_on_white(tmp_path):
    for shade in (0, 255):
        patch = np.full((1, 96, 96, 3), shade, dtype=np.uint8)
        plot_gallery(tmp_path / "gallery.png", patch, [""], "")
        picture = pixels(tmp_path / "gallery.png")
        yellow = np.argwhere((picture == (240, 228, 66)).all(axis=2))
        assert (np.ptp(yellow, axis=0) + 1).tolist() == [64 + 6, 64 + 6]


def test_captions_are_drawn_below_their_patch_and_inside_the_picture(tmp_path):
    patches = np.zeros((2, 96, 96, 3), dtype=np.uint8)
    captions = ["", "a very long slide name $" * 8]
    plot_gallery(tmp_path / "gallery.png", patches, captions, "")
    picture = pixels(tmp_path / "gallery.png")
    bottom = np.argwhere((picture == 0).all(axis=2))[:, 0]
    ink = np.argwhere((picture < 128).all(axis=2))
    below = ink[ink[:, 0] > np.flatnonzero(np.bincount(bottom) > 300).max()]
    assert len(below) > 200
    assert below[:, 1].min() >= 12 + 192  # nothing under the first
    assert below[:, 1].max() < picture.shape[1]
    assert below[:, 0].max() < picture.shape[0] - 3


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 9, 17])
def test_size_is_what_was_asked_for_to_the_pixel(tmp_path, count):
    plot_gallery(tmp_path / "gallery.png", random_patches(count), ["x"] * count, "t", scale=1)
    height, width, _ = pixels(tmp_path / "gallery.png").shape
    assert width == min(count, 8) * (96 + 12) + 12
    assert height > -(-count // 8) * 96


@pytest.mark.parametrize(
    ("patches", "captions", "options"),
    [
        (random_patches(1).astype(np.float32), ["x"], {}),
        (random_patches(1)[:, :64], ["x"], {}),
        (random_patches(0), [], {}),
        (random_patches(2), ["x"], {}),
        (random_patches(1), ["x"], {"columns": 0}),
        (random_patches(1), ["x"], {"scale": 0}),
        (np.zeros((300, 96, 96, 3), np.uint8), ["x"] * 300, {"columns": 1, "scale": 3}),
    ],
)
def test_bad_input_is_refused_and_nothing_is_written(tmp_path, patches, captions, options):
    with pytest.raises(ValueError, match="patches"):
        plot_gallery(tmp_path / "gallery.png", patches, captions, "t", **options)
    assert not list(tmp_path.iterdir())


def test_heat_leaves_what_is_0_gray_and_scales_each_map_to_itself():
    patches = random_patches(2)
    maps = np.zeros((2, 96, 96), np.float32)
    maps[0, 10, 10], maps[0, 20, 20] = 4.0, 2.0
    hot = heat(patches, maps)
    assert hot.dtype == np.uint8 and hot.shape == patches.shape
    gray = np.rint(patches.mean(3, keepdims=True)).repeat(3, axis=3)
    np.testing.assert_array_equal(hot[1], gray[1])
    differs = np.argwhere((hot[0] != gray[0]).any(2)).tolist()
    assert differs == [[10, 10], [20, 20]]
    np.testing.assert_array_equal(heat(patches, maps * 7), hot)
