"""File names: whatever the files are called, the same content is the same data set."""

import logging
import shutil
from pathlib import Path

import pytest
from pcam_files import SPLITS
from pcam_layouts import flat_kaggle, kaggle

from pcam_lightning.data import PCamDataModule
from pcam_lightning.data.files import SplitFiles, check_split, split_files
from pcam_lightning.data.identity import file_digests
from pcam_lightning.data.layout import describe_missing, file_names, missing_files
from pcam_lightning.data.slides import read_slides
from pcam_lightning.data.source import find_source
from pcam_lightning.errors import InputError


@pytest.mark.parametrize("rename", [kaggle, flat_kaggle])
def test_the_digests_name_the_official_files(pcam_root: Path, rename) -> None:
    before = file_digests(split_files(pcam_root))
    rename(pcam_root)
    assert missing_files(pcam_root) == [] and describe_missing(pcam_root) is None
    assert file_digests(split_files(pcam_root)) == before


def test_slides_are_found_in_kaggles_layout(pcam_root: Path) -> None:
    SplitFiles(pcam_root, "test").meta.write_text("wsi\n" + "a\n" * 20)
    kaggle(pcam_root)
    slides = read_slides(SplitFiles(pcam_root, "test"))
    assert slides is not None and set(slides) == {"a"}


def test_the_official_name_wins_and_one_line_says_so(pcam_root: Path, caplog) -> None:
    official = SplitFiles(pcam_root, "train").images
    other = pcam_root / "training_split.h5"
    other.write_bytes(b"not read")
    assert check_split(SplitFiles(pcam_root, "train")) == 48
    (record,) = (each for each in caplog.records if each.levelno >= logging.WARNING)
    assert official.name in record.getMessage() and other.name in record.getMessage()


def _in_pcam(root: Path) -> tuple[Path, list[str]]:
    return root.parent, [f"data.root={root}"]


def _in_the_parent(root: Path) -> tuple[Path, list[str]]:
    kaggle(root)
    return root / "pcam", [f"data.root={root.resolve()}"]


def _one_label_file_less(root: Path) -> tuple[Path, list[str]]:
    name = SplitFiles(root, "valid").labels.name
    (root / name).unlink()
    return root, [name]


def _one_of_kaggles_files_less(root: Path) -> tuple[Path, list[str]]:
    kaggle(root)
    (root / "pcam" / "test_split.h5").unlink()
    return root, ["pcam/test_split.h5"]


def _no_labels_of_kaggle(root: Path) -> tuple[Path, list[str]]:
    kaggle(root)
    shutil.rmtree(root / "Labels")
    return root, [f"Labels/Labels/camelyonpatch_level_2_split_{split}_y.h5" for split in SPLITS]


def _only_some_packed(root: Path) -> tuple[Path, list[str]]:
    for split in SPLITS:
        images = SplitFiles(root, split).images
        images.rename(f"{images}.gz")
    (root / "camelyonpatch_level_2_split_test_x.h5.gz").unlink()
    return root, ["camelyonpatch_level_2_split_test_x.h5"]


# A folder that lacks files: the message names the folder to give, or each missing file.
LACKING = [
    _in_pcam,
    _in_the_parent,
    _one_label_file_less,
    _one_of_kaggles_files_less,
    _no_labels_of_kaggle,
    _only_some_packed,
]


@pytest.mark.parametrize("lack", LACKING)
def test_a_folder_that_lacks_files_is_one_line(pcam_root: Path, lack) -> None:
    root, named = lack(pcam_root)
    data = {"root": str(root), "default_root": None, "on_missing": "demo", "demo": {}}
    for use in (lambda: find_source(data), lambda: PCamDataModule(root).setup()):
        with pytest.raises(InputError) as caught:
            use()
        message = str(caught.value)
        assert len(message.splitlines()) == 1 and all(text in message for text in named)
        assert "camelyonpatch_level_2_split_train_x.h5" not in message.replace(str(root), "")


def test_a_folder_that_may_not_be_read_says_so(pcam_root: Path, monkeypatch) -> None:
    SplitFiles(pcam_root, "train").images.unlink()
    monkeypatch.setattr("os.access", lambda *_: False)
    assert "permission denied" in (describe_missing(pcam_root) or "")


def test_a_tilde_is_the_home_folder(pcam_root: Path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(pcam_root.parent))
    for named in ("root", "default_root"):
        data = {"root": None, "default_root": None, "on_missing": "error", "demo": {}}
        assert find_source(data | {named: "~/pcam"}).root == pcam_root.resolve()
    module = PCamDataModule("~/pcam", cache_dir="~/cache")
    module.setup("validate")
    assert module.root == pcam_root
    assert module.files("valid").cache_dir == pcam_root.parent / "cache"


def test_official_names_come_first() -> None:
    for split in SPLITS:
        for part, ending in (("x", "x.h5"), ("y", "y.h5"), ("meta", "meta.csv")):
            official = f"camelyonpatch_level_2_split_{split}_{ending}"
            assert file_names(split, part)[0] == official
