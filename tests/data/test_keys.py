"""Names of the datasets in H5 files: found, or declared by `data.keys`."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from pcam_files import random_split, write_split

from pcam_lightning.data import PCamDataModule
from pcam_lightning.data.files import SplitFiles, check_split, read_labels, split_files
from pcam_lightning.data.identity import content_digest, file_digests
from pcam_lightning.errors import InputError

IMAGES, LABELS = random_split(6)


def move(path: Path, old: str, new: str) -> None:
    with h5py.File(path, "r+") as file:
        file.move(old, new)


@pytest.fixture
def files(tmp_path: Path) -> SplitFiles:
    write_split(tmp_path, "train", IMAGES, LABELS)
    return SplitFiles(tmp_path, "train")


@pytest.mark.parametrize("name", ["images", "data", "a/deep/one", "ä"])
def test_the_only_dataset_is_found(files: SplitFiles, name: str) -> None:
    before = content_digest(files, "x")
    move(files.images, "x", name)
    move(files.labels, "y", name)
    assert check_split(files) == 6
    assert content_digest(files, "x") == before
    assert read_labels(files).tolist() == LABELS.tolist()


def test_x_and_y_win_over_other_datasets(files: SplitFiles) -> None:
    for path in (files.images, files.labels):
        with h5py.File(path, "r+") as file:
            file["another"] = np.zeros(3)
    assert check_split(files) == 6


def _both(files: SplitFiles) -> tuple[str, ...]:
    move(files.images, "x", "images")
    with h5py.File(files.images, "r+") as file:
        file["coordinates"] = np.zeros((6, 2))
    return files.images.name, "images", "coordinates", "data.keys=[images,labels]"


def _none(files: SplitFiles) -> tuple[str, ...]:
    with h5py.File(files.labels, "w") as file:
        file.create_group("y")
    return files.labels.name, "data.keys=[images,labels]"


def _many(files: SplitFiles) -> tuple[str, ...]:
    with h5py.File(files.images, "w") as file:
        for row in range(1000):
            file[f"{row:04d}\n"] = np.zeros((96, 96, 3), np.uint8)
    return files.images.name, "0000", "data.keys=[images,labels]"


# Files whose datasets are not known: one line of bounded length names them and the key.
UNCLEAR: list[Callable[[SplitFiles], tuple[str, ...]]] = [_both, _none, _many]


@pytest.mark.parametrize("make", UNCLEAR)
def test_unclear_datasets_are_one_line(files: SplitFiles, make) -> None:
    named = make(files)
    with pytest.raises(InputError) as caught:
        check_split(files)
    message = str(caught.value)
    assert all(text in message for text in named)
    assert len(message.splitlines()) == 1 and len(message) < 600


def test_declared_keys_choose_a_dataset(tmp_path: Path, pcam_root: Path) -> None:
    official = file_digests(split_files(pcam_root))
    for files in split_files(pcam_root).values():
        move(files.images, "x", "raw/images")
        move(files.labels, "y", "target")
        for path in (files.images, files.labels):
            with h5py.File(path, "r+") as file:
                file["x"] = file["y"] = np.zeros((3, 96, 96, 3), np.uint8)  # not to be read
    module = PCamDataModule(pcam_root, keys=("raw/images", "target"))
    module.setup()
    assert module.digests == official
    # Facts of another dataset of the same file are other facts.
    assert file_digests(split_files(pcam_root)) != official
    with pytest.raises(InputError, match=r"no dataset 'nowhere' in it, found .*target"):
        PCamDataModule(pcam_root, keys=("raw/images", "nowhere")).setup()


@pytest.mark.parametrize("keys", ["xy", ["x"], ["x", "y", "z"], ["", "y"], [1, 2], 3])
def test_keys_are_two_names(tmp_path: Path, keys) -> None:
    with pytest.raises(InputError, match=r"data\.keys"):
        PCamDataModule(tmp_path, keys=keys)
