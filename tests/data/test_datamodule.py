import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from pcam_files import random_split, write_split
from torchvision.datasets import PCAM

from pcam_lightning.data import Batch, PCamDataModule
from pcam_lightning.data.files import SplitFiles
from pcam_lightning.errors import InputError


def loaded(root: Path, **arguments) -> PCamDataModule:
    datamodule = PCamDataModule(root, batch_size=8, **arguments)
    datamodule.setup()
    return datamodule


def test_a_batch_is_bytes_labels_and_rows(pcam_root: Path) -> None:
    batch = next(iter(loaded(pcam_root).train_dataloader()))
    assert isinstance(batch, Batch)
    assert batch.image.shape == (8, 96, 96, 3) and batch.image.dtype == torch.uint8
    assert batch.label.shape == batch.row.shape == (8,)
    assert batch.label.dtype == batch.row.dtype == torch.int64


@pytest.mark.parametrize("split", ["val", "test"])
def test_batches_equal_torchvisions_reading_row_by_row(
    pcam_root: Path, tmp_path: Path, split: str
) -> None:
    (tmp_path / "tv").mkdir()
    (tmp_path / "tv" / "pcam").symlink_to(pcam_root)
    reader = PCAM(str(tmp_path / "tv"), split=split)
    rows = []
    for batch in getattr(loaded(pcam_root), f"{split}_dataloader")():
        for image, label, row in zip(*batch, strict=True):
            picture, target = reader[int(row)]
            np.testing.assert_array_equal(image.numpy(), np.asarray(picture))
            assert int(label) == target
            rows.append(int(row))
    assert rows == list(range(len(reader)))


def test_workers_give_the_same_batches_in_the_same_order(pcam_root: Path) -> None:
    here = list(loaded(pcam_root).train_dataloader())
    there = list(loaded(pcam_root, num_workers=2).train_dataloader())
    assert len(here) == len(there) == 6
    for mine, theirs in zip(here, there, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


def test_a_used_data_set_travels_to_a_worker_without_its_pixels(pcam_root: Path) -> None:
    dataset = loaded(pcam_root).datasets["train"]
    dataset[[0]]
    assert len(pickle.dumps(dataset)) < 10_000
    assert torch.equal(pickle.loads(pickle.dumps(dataset))[[3]].image, dataset[[3]].image)


def test_blank_patches_leave_training_only(pcam_root: Path) -> None:
    images, labels = random_split(12)
    images[2], images[5], images[7] = 0, 255, 1
    images[8] = 253
    write_split(pcam_root, "train", images, labels)
    write_split(pcam_root, "test", images, labels)
    assert len(loaded(pcam_root).datasets["train"]) == 12
    filtered = loaded(pcam_root, filter="blank")
    assert filtered.dropped_blank == 3
    assert filtered.datasets["train"].rows.tolist() == [0, 1, 3, 4, 6, 8, 9, 10, 11]
    assert len(filtered.datasets["test"]) == 12
    batch = filtered.datasets["train"][[2, 3]]
    assert batch.row.tolist() == [3, 4]
    np.testing.assert_array_equal(batch.image.numpy(), images[[3, 4]])
    np.testing.assert_array_equal(batch.label.numpy(), labels[[3, 4]])


def test_cleaning_is_counted_by_split(pcam_root: Path) -> None:
    images, labels = random_split(12)
    damaged = images.astype(np.float32)
    damaged[3, 0, 0] = np.nan
    write_split(pcam_root, "valid", damaged, labels)
    cleaning = loaded(pcam_root).cleaning()
    assert cleaning["valid"].nan == 3 and cleaning["train"].nan == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [({"sampler": "random"}, "weighted, shuffle"), ({"filter": "all"}, "none or blank")],
)
def test_wrong_arguments_are_refused(pcam_root: Path, arguments: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        PCamDataModule(pcam_root, **arguments)


def test_a_batch_larger_than_the_training_set_is_refused(pcam_root: Path) -> None:
    datamodule = PCamDataModule(pcam_root, batch_size=49)
    datamodule.setup()
    with pytest.raises(InputError, match="48 training patches"):
        datamodule.train_dataloader()


def test_a_damaged_file_is_found_before_any_conversion(pcam_root: Path) -> None:
    images, labels = random_split(12)
    write_split(pcam_root, "train", images.astype(np.float32), labels)
    SplitFiles(pcam_root, "test").labels.unlink()
    with pytest.raises(InputError, match="split_test_y"):
        PCamDataModule(pcam_root).setup()
    assert not (pcam_root / ".uint8").exists()
