"""Tests of the patches and metadata that belong to predictions tables."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pcam_files import random_split, write_split
from pcam_layouts import channels_first, declared_datasets, kaggle, packed

from pcam_lightning.data.files import SplitFiles, read_labels
from pcam_lightning.errors import InputError
from pcam_lightning.evaluate.patches import PatchSource

DATA = {"scale": "auto", "cache": False, "cache_dir": None, "keys": None}


@pytest.fixture
def table(pcam_root: Path) -> Any:
    """Predictions on `pcam_root` without logits."""
    labels = read_labels(SplitFiles(pcam_root, "test"))
    return pd.DataFrame({"row": range(len(labels)), "label": labels})


def test_patches_of_the_same_data(pcam_root: Path, table) -> None:
    source = PatchSource(str(pcam_root), DATA, {"test": table})
    described = source.with_features(None)["test"]
    images = random_split(20, seed=2)[0]
    assert described["brightness"].to_numpy() == pytest.approx(images.mean((1, 2, 3)) / 255)
    assert source.prevalence(0.9) == (1 / 3, "training labels")
    assert PatchSource(str(pcam_root), DATA, {"test": described}).missing is None


def test_patches_of_another_layout(pcam_root: Path, table) -> None:
    described = PatchSource(str(pcam_root), DATA, {"test": table}).with_features(None)["test"]
    channels_first(pcam_root)
    declared_datasets(pcam_root)
    kaggle(pcam_root)
    packed(pcam_root)
    source = PatchSource(
        str(pcam_root), DATA | {"keys": ["images", "targets"]}, {"test": described}
    )
    assert source.missing is None and source.prevalence(0.9) == (1 / 3, "training labels")
    pd.testing.assert_frame_equal(source.with_features(None)["test"], described)
    assert "data.keys" in (PatchSource(str(pcam_root), DATA, {"test": table}).missing or "")


def test_patches_of_other_data_are_missing(pcam_root: Path, table, tmp_path: Path) -> None:
    def missing(table: pd.DataFrame, root: Path | None = pcam_root) -> str:
        return PatchSource(root and str(root), DATA, {"test": table}).missing or ""

    described = PatchSource(str(pcam_root), DATA, {"test": table}).with_features(None)["test"]
    other = f"{pcam_root}: not the data"
    assert missing(pd.concat([table, table.assign(row=table["row"] + 20)])).startswith(other)
    assert missing(table.assign(label=1 - table["label"])).startswith(other)
    images, labels = random_split(20, seed=7)
    write_split(pcam_root, "test", images // 3, labels)  # the labels stay the same
    assert missing(table) == ""
    assert missing(described).startswith(other)
    assert "data.root" in missing(table, None)
    assert str(tmp_path / "moved") in missing(table, tmp_path / "moved")


def test_prevalence_without_training_labels(table) -> None:
    source = PatchSource(None, DATA, {"test": table})
    assert source.prevalence(0.25)[0] == 0.25
    assert source.prevalence(None) == (table["label"].mean(), "labels of test")


# Each invalid file of hospitals is reported in one line with its name.
@pytest.mark.parametrize(
    ("text", "named"),
    [("slide\na\n", "slide, hospital"), ("slide,hospital\na,x\na,y\n", "slide a"), (None, "")],
)
def test_invalid_hospitals(table, tmp_path: Path, text: str | None, named: str) -> None:
    path = tmp_path / "hospitals.csv"
    if text is not None:
        path.write_text(text)
    source = PatchSource(None, DATA, {"test": table.assign(slide="a")})
    with pytest.raises(InputError, match=named) as raised:
        source.with_features(str(path))
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)


def test_hospitals_need_slides(table) -> None:
    with pytest.raises(InputError, match="the slides are unknown"):
        PatchSource(None, DATA, {"test": table}).with_features("hospitals.csv")
