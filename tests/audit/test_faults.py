"""Tests of findings: planted damage, copies, labels and slides, outliers."""

from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from pcam_files import SPLITS, random_split, write_split
from tqdm import tqdm

from pcam_lightning.audit.faults import fences, find_faults
from pcam_lightning.audit.near_duplicates import find_near_duplicates, fit_coder
from pcam_lightning.audit.scan import scan_split
from pcam_lightning.data.demo.generate import DemoOptions, ensure_demo
from pcam_lightning.data.files import SplitFiles

Finding = tuple[str, int, str, str]


def found(root: Path) -> set[Finding]:
    files, bar = {split: SplitFiles(root, split) for split in SPLITS}, tqdm(disable=True)
    coder = fit_coder(files)
    scans = {split: scan_split(each, bar, coder=coder) for split, each in files.items()}
    table = find_faults(scans, find_near_duplicates(scans, bar).table)
    rows = [tuple(row) for row in table.itertuples(index=False)]
    assert len(set(rows)) == len(rows)
    return set(rows)  # type: ignore[arg-type]


def planted(root: Path) -> set[Finding]:
    """Return the findings that an audit should report for `demo_damage.csv`."""
    expected: set[Finding] = set()
    table = pd.read_csv(root / "demo_damage.csv", dtype=str, keep_default_na=False)
    for split, row, kind, value in table.itertuples(index=False):
        here = (split, int(row))
        there = (value.split(":")[0], int(value.split(":")[1])) if ":" in value else here
        if kind in ("duplicate", "near_duplicate"):  # the later of two patches
            first, later = sorted((here, there), key=lambda place: place[1])
            expected.add((*later, kind, f"{first[0]}:{first[1]}"))
        elif kind == "contradiction" or kind.startswith("cross_split"):  # both are reported
            expected.add((*here, kind, f"{there[0]}:{there[1]}"))
            expected.add((*there, kind, f"{here[0]}:{here[1]}"))
        else:
            expected.add((*here, kind, value))
    return expected


@pytest.mark.parametrize(("dtype", "seed"), [("uint8", 0), ("float32", 1)])
def test_planted_damage_is_found_exactly(tmp_path: Path, dtype: str, seed: int) -> None:
    options = DemoOptions(seed=seed, train=128, valid=64, test=64, dtype=dtype, damage=True)
    root = ensure_demo(tmp_path, options)
    assert found(root) == planted(root)
    kinds = {kind for _, _, kind, _ in planted(root)}
    assert len(kinds) == (10 if dtype == "float32" else 7)


def test_an_undamaged_data_set_has_no_findings(tmp_path: Path) -> None:
    assert found(ensure_demo(tmp_path, DemoOptions(train=128, valid=64, test=64))) == set()


def write(root: Path, images: dict[str, np.ndarray], labels: dict[str, list[int]]) -> None:
    for split in SPLITS:
        write_split(root, split, images[split], np.array(labels[split]))


@pytest.fixture
def parts() -> tuple[dict[str, np.ndarray], dict[str, list[int]]]:
    """Four different patches in each split, with the labels 0, 1, 0, 1."""
    images = {split: random_split(4, seed)[0] for seed, split in enumerate(SPLITS)}
    return images, {split: [0, 1, 0, 1] for split in SPLITS}


def test_copies(tmp_path: Path, parts) -> None:
    images, labels = parts
    images["train"][3] = images["train"][1]  # same label, twice in a split
    images["test"][1] = images["train"][1]  # and in another split
    images["valid"][2] = images["valid"][1]  # another label
    images["valid"][3] = images["valid"][1]
    write(tmp_path, images, labels)
    assert found(tmp_path) == {
        ("train", 3, "duplicate", "train:1"),
        ("train", 1, "cross_split_duplicate", "test:1"),
        ("train", 3, "cross_split_duplicate", "test:1"),
        ("test", 1, "cross_split_duplicate", "train:1"),
        ("valid", 1, "contradiction", "valid:2"),
        ("valid", 2, "contradiction", "valid:1"),
        ("valid", 3, "contradiction", "valid:2"),
    }


def test_labels_and_slides(tmp_path: Path, parts) -> None:
    write(tmp_path, *parts)
    with h5py.File(SplitFiles(tmp_path, "valid").labels, "r+") as file:
        dataset = file["y"]
        assert isinstance(dataset, h5py.Dataset)
        dataset[2] = 7
    head = "coord_y,coord_x,tumor_patch,center_tumor_patch,wsi\n"
    for split, slides, labels in (
        ("train", "abbc", ("False", "True", "False", "False")),
        ("test", "cdde", ("False", "True", "False", "True")),
    ):
        lines = [f"0,0,True,{t},{slide}\n" for slide, t in zip(slides, labels, strict=True)]
        SplitFiles(tmp_path, split).meta.write_text(head + "".join(lines))
    assert found(tmp_path) == {
        ("valid", 2, "invalid_label", "7"),
        ("train", 3, "label_mismatch", "1, meta 0"),
        ("train", 3, "slide_overlap", "c in test"),
        ("test", 0, "slide_overlap", "c in train"),
    }


def test_equal_digests_of_different_patches_are_no_duplicates(tmp_path: Path, parts) -> None:
    write(tmp_path, *parts)
    scans = {split: scan_split(SplitFiles(tmp_path, split), tqdm(disable=True)) for split in SPLITS}
    scans["train"].content[:] = 1  # all digests collide
    assert find_faults(scans).empty


def test_outliers_are_outside_tukeys_outer_fences(tmp_path: Path, parts) -> None:
    means = np.array([100, 110, 120, 130, 140.0])
    assert fences(means) == (110 - 60, 130 + 60)
    images, labels = parts
    flat = np.repeat(np.arange(100, 120, dtype=np.uint8), 96 * 96 * 3).reshape(20, 96, 96, 3)
    flat = flat.copy()
    flat[5], flat[6], flat[7] = 200, 0, 255
    write(tmp_path, images | {"train": flat}, labels | {"train": [0, 1] * 10})
    assert found(tmp_path) == {
        ("train", 5, "outlier", "200.0000"),
        ("train", 6, "black", "0.0000"),
        ("train", 7, "white", "255.0000"),
    }
