"""Scales of pixel values: detected from a sample, rejected or converted as declared."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from pcam_files import SPLITS, random_split, write_split

from pcam_lightning.data import PCamDataModule
from pcam_lightning.data import scale as scales
from pcam_lightning.data.demo.generate import DemoOptions, ensure_demo
from pcam_lightning.data.files import SplitFiles, open_dataset, split_files
from pcam_lightning.data.scale import appearance, check_scales, sample
from pcam_lightning.errors import InputError

ROWS = 24
IMAGENET = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def floats(patches: np.ndarray) -> np.ndarray:
    return patches.astype(np.float32)


# Pixel values as other tools write them: the scale to declare, and the conversion from uint8.
EXACT = {
    "float 0..1": ("0-1", lambda x: floats(x) / 255),
    "half 0..1": ("0-1", lambda x: (x / 255).astype(np.float16)),
    "float -1..1": ("-1-1", lambda x: (floats(x) / 255 - 0.5) / 0.5),
    "double -1..1": ("-1-1", lambda x: x / 127.5 - 1),
    "uint16": ("0-65535", lambda x: x.astype(np.uint16) * 257),
    "float of uint16": ("0-65535", lambda x: floats(x) * 257),
    "int16 less 128": ([-128, 127], lambda x: x.astype(np.int16) - 128),
    "int8 less 128": ([-128, 127], lambda x: (x.astype(np.int16) - 128).astype(np.int8)),
    "12 bits": ([0, 4080], lambda x: x.astype(np.uint16) * 16),
}
LOST = {
    "ImageNet": lambda x: floats((x / 255 - IMAGENET[0]) / IMAGENET[1]),
    "standardized": lambda x: (floats(x) - floats(x).mean()) / floats(x).std(),
    "centered": lambda x: floats(x) - floats(x).mean(),
    "divided in integers": lambda x: (x / 255).astype(np.uint8),
    "black": np.zeros_like,
    "black floats": lambda x: np.zeros_like(floats(x)),
    "NaN": lambda x: np.full_like(floats(x), np.nan),
}
OTHERS = {name: write for name, (_, write) in EXACT.items()} | LOST


@pytest.fixture(scope="module")
def tissue(tmp_path_factory) -> dict[str, np.ndarray]:
    """Patches of each split, uint8 [24, 96, 96, 3]."""
    options = DemoOptions(train=ROWS, valid=ROWS, test=ROWS)
    root = ensure_demo(tmp_path_factory.mktemp("demo"), options)
    found = {}
    for split in SPLITS:
        with h5py.File(SplitFiles(root, split).images) as file:
            found[split] = np.asarray(file["x"])
    return found


def write(root: Path, patches: dict[str, np.ndarray], **layout) -> Path:
    for split, images in patches.items():
        write_split(root, split, images, np.arange(len(images)) % 2, **layout)
    return root


def read(root: Path, **arguments) -> dict[str, np.ndarray]:
    datamodule = PCamDataModule(root, **arguments)
    datamodule.setup()
    return {split: np.asarray(each.pixels[:]) for split, each in datamodule.datasets.items()}


def refusal(root: Path, **arguments) -> str:
    with pytest.raises(InputError) as caught:
        PCamDataModule(root, **arguments).setup()
    (line,) = str(caught.value).splitlines()
    assert not (root / ".uint8").exists()  # before any conversion
    return line


@pytest.mark.parametrize("name", EXACT)
def test_a_declared_scale_gives_the_bytes_of_the_original(
    tmp_path: Path, tissue, name: str
) -> None:
    declared, other = EXACT[name]
    root = write(tmp_path, {split: other(x) for split, x in tissue.items()}, chunks=(5, 96, 96, 3))
    for cache in (False, True):
        datamodule = PCamDataModule(root, scale=declared, cache=cache)
        datamodule.setup("test")
        patches = datamodule.datasets["test"].pixels
        np.testing.assert_array_equal(np.asarray(patches[:]), tissue["test"])
        np.testing.assert_array_equal(patches[np.array([3, 1])], tissue["test"][[3, 1]])
        assert not any(vars(datamodule.cleaning()["test"]).values())


@pytest.mark.parametrize("name", OTHERS)
def test_another_scale_is_rejected(tmp_path: Path, tissue, name: str) -> None:
    root = write(tmp_path / "all", {split: OTHERS[name](x) for split, x in tissue.items()})
    line = refusal(root)
    assert line.startswith(str(SplitFiles(root, "train").images))
    declared = EXACT[name][0] if name in EXACT else None
    if isinstance(declared, str) or declared == [-128, 127]:
        assert f"data.scale={str(declared).replace(' ', '')}" in line
    root = write(tmp_path / "one", tissue | {"test": OTHERS[name](tissue["test"])})
    for declared in ("auto", "0-255"):
        line = refusal(root, scale=declared)
        assert line.startswith(str(SplitFiles(root, "test").images)) and "train" in line


def test_a_declared_scale_must_fit_every_split(tmp_path: Path, tissue) -> None:
    scaled = {split: floats(x) / 255 for split, x in tissue.items()}
    assert refusal(write(tmp_path / "one", scaled), scale="0-65535")
    line = refusal(write(tmp_path / "two", scaled | {"test": tissue["test"]}), scale="0-1")
    assert "split_test_x.h5" in line and "data.scale=0-1" in line
    for declared in ("-1-1", "0-65535", [0, 20]):
        assert "data.scale=" in refusal(write(tmp_path / "three", tissue), scale=declared)


def test_one_outlier_does_not_hide_the_scale(tmp_path: Path, tissue) -> None:
    scaled = {split: floats(x) / 255 for split, x in tissue.items()}
    for patches in scaled.values():
        patches[2, 0, 0, 0], patches[5, 9], patches[7] = 1e5, np.nan, np.nan
        patches[11] = 255  # a white tile pasted in
    assert "data.scale=0-1" in refusal(write(tmp_path, scaled))


def test_a_split_with_two_scales_is_rejected(tmp_path: Path, tissue) -> None:
    mixed = floats(tissue["train"])
    mixed[::3] /= 255
    assert "several scales" in refusal(write(tmp_path, tissue | {"train": mixed}))


def constant(*values: int) -> np.ndarray:
    return np.array(values, np.uint8)[:, None, None, None] * np.ones((1, 96, 96, 3), np.uint8)


# Valid patches that look unusual.
SOUND = {
    "one patch of noise": random_split(1)[0],
    "noise": random_split(4)[0],
    "one color each": constant(0, 100, 120, 255),
    "one color": constant(7, 7, 7),
    "white": constant(*[255] * 8),
    "dark": random_split(20)[0] // 25,
    "mostly black": np.concatenate([constant(*[0] * 12), random_split(4)[0]]),
    "black and white": constant(*[0, 255] * 8),
    "pale": 235 + random_split(20)[0] // 13,
}


@pytest.mark.parametrize("name", SOUND)
def test_odd_but_valid_patches_are_on_0_to_255(name: str) -> None:
    for dtype in (np.uint8, np.float32, np.int16):
        assert appearance(SOUND[name].astype(dtype)[:, ::3, ::3]).name == "0-255"


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_planted_damage_is_cleaned_and_counted(tmp_path: Path, dtype: str) -> None:
    options = DemoOptions(train=28, valid=28, test=28, dtype=dtype, damage=True)
    datamodule = PCamDataModule(ensure_demo(tmp_path, options))
    datamodule.setup()
    cleaned = datamodule.cleaning()["train"]
    assert (cleaned.patches > 0) == (cleaned.nan > 0) == (dtype == "float32")


def test_damage_is_counted_on_a_declared_scale(tmp_path: Path, tissue) -> None:
    scaled = {split: floats(x) / 255 for split, x in tissue.items()}
    scaled["train"][2, 0, 0] = (np.nan, np.inf, -0.5)
    scaled["train"][3, 0, 0, 0] = 7
    datamodule = PCamDataModule(write(tmp_path, scaled), scale="0-1")
    datamodule.setup()
    counts = {"nan": 1, "infinite": 1, "below_0": 1, "above_255": 1, "patches": 2}
    assert vars(datamodule.cleaning()["train"]) == counts
    assert datamodule.datasets["train"].pixels[2:3][0, 0, 0].tolist() == [0, 255, 0]


def test_copies_on_different_scales_do_not_mix(tmp_path: Path, tissue) -> None:
    root = write(tmp_path, {split: x.astype(np.uint16) * 257 for split, x in tissue.items()})
    for declared, factor in (("0-65535", 1.0), ([0, 131070], 0.5), ("0-65535", 1.0)):
        expected = np.rint(tissue["test"] * factor)
        np.testing.assert_array_equal(read(root, scale=declared)["test"], expected)


def test_declared_black_patches_are_accepted(tmp_path: Path, tissue) -> None:
    black = {split: np.zeros_like(x) for split, x in tissue.items()}
    assert not read(write(tmp_path, black), scale="0-255")["train"].any()


@pytest.mark.parametrize(
    "value", ["0..1", "", None, 5, ["0", "1"], [0], [1, 0], [0, 0], [0, 1, 2], [0, float("inf")]]
)
def test_an_invalid_scale_is_rejected(tmp_path: Path, value) -> None:
    with pytest.raises(InputError, match="auto, 0-255, 0-1, -1-1, 0-65535"):
        PCamDataModule(tmp_path, scale=value)


@pytest.mark.parametrize("layout", [{}, {"chunks": (7, 96, 96, 3)}, {"chunks": (200, 96, 96, 1)}])
def test_a_sample_is_spread_and_bounded(tmp_path: Path, monkeypatch, layout: dict) -> None:
    write_split(tmp_path, "train", constant(*range(1, 251)), np.zeros(250), **layout)
    files = SplitFiles(tmp_path, "train")
    monkeypatch.setattr(scales, "PLACES", 4)
    rows = sample(files)
    assert rows.shape[1:] == (32, 32, 3) and 16 <= len(rows) <= 32
    assert rows[0, 0, 0, 0] == 1 and rows[-1, 0, 0, 0] > 200


def test_the_sample_of_a_large_split_reads_few_rows(tmp_path: Path) -> None:
    files = SplitFiles(tmp_path, "train")
    with h5py.File(files.images, "w") as file:
        file.create_dataset("x", (262_144, 96, 96, 3), np.uint8, chunks=(64, 96, 96, 3))
    with open_dataset(files, "x") as dataset:
        runs = list(scales._runs(dataset))
    assert len(runs) == 32 and sum(count for _, count in runs) == 256
    assert all(start % 64 == 0 for start, _ in runs)


def test_the_scale_of_a_split_is_that_of_most_patches(tissue) -> None:
    patches = floats(tissue["train"])
    patches[4], patches[9] = 1e5, -1e5
    assert appearance(patches).name == "0-255"
    assert appearance(patches[:1]).name == "0-255"
    assert appearance(patches[4:5]).name == "unknown"


def test_three_sound_splits_have_one_scale(tmp_path: Path, tissue) -> None:
    assert check_scales(split_files(write(tmp_path, tissue))).is_bytes
    (tmp_path / "camelyonpatch_level_2_split_test_x.h5").write_bytes(b"no HDF5")
    with pytest.raises(InputError, match="split_test_x"):
        check_scales(split_files(tmp_path))
