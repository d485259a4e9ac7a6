import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from pcam_files import SPLITS, random_split, write_split
from torchvision.datasets import PCAM

from pcam_lightning.data import Batch, PCamDataModule
from pcam_lightning.data.files import SplitFiles
from pcam_lightning.data.findings import COLUMNS, write_findings
from pcam_lightning.errors import InputError


def loaded(root: Path, **arguments) -> PCamDataModule:
    datamodule = PCamDataModule(root, batch_size=8, **arguments)
    datamodule.setup()
    return datamodule


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A data set of 48 / 20 / 20 patches that no test changes."""
    folder = tmp_path_factory.mktemp("pcam")
    for seed, (split, rows) in enumerate(zip(SPLITS, (48, 20, 20), strict=True)):
        write_split(folder, split, *random_split(rows, seed))
    return folder


def test_a_batch_is_bytes_labels_and_rows(root: Path) -> None:
    batch = next(iter(loaded(root).train_dataloader()))
    assert isinstance(batch, Batch)
    assert batch.image.shape == (8, 96, 96, 3) and batch.image.dtype == torch.uint8
    assert batch.label.shape == batch.row.shape == (8,)
    assert batch.label.dtype == batch.row.dtype == torch.int64


@pytest.mark.parametrize("split", ["val", "test"])
def test_batches_equal_the_rows_that_torchvision_reads(
    root: Path, tmp_path: Path, split: str
) -> None:
    (tmp_path / "tv").mkdir()
    (tmp_path / "tv" / "pcam").symlink_to(root)
    reader = PCAM(str(tmp_path / "tv"), split=split)
    rows = []
    for batch in getattr(loaded(root), f"{split}_dataloader")():
        for image, label, row in zip(*batch, strict=True):
            picture, target = reader[int(row)]
            np.testing.assert_array_equal(image.numpy(), np.asarray(picture))
            assert int(label) == target
            rows.append(int(row))
    assert rows == list(range(len(reader)))


@pytest.mark.parametrize(
    ("loader", "split", "rows"),
    [("train", "train", 48), ("val", "valid", 20), ("test", "test", 20), ("predict", "test", 20)],
)
def test_a_loader_before_setup_prepares_its_own_split(
    root: Path, loader: str, split: str, rows: int
) -> None:
    datamodule = PCamDataModule(root, batch_size=4, sampler="shuffle")
    batches = list(getattr(datamodule, f"{loader}_dataloader")())
    assert set(datamodule.datasets) == {split}
    assert sorted(torch.cat([batch.row for batch in batches]).tolist()) == list(range(rows))
    images, _ = random_split(rows, SPLITS.index(split))
    for batch in batches:
        np.testing.assert_array_equal(batch.image.numpy(), images[batch.row])


def test_a_pickled_data_set_has_no_pixels(root: Path) -> None:
    dataset = loaded(root).datasets["train"]
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
    assert filtered.dropped == {"blank": 3, "excluded": 0}
    assert filtered.datasets["train"].rows.tolist() == [0, 1, 3, 4, 6, 8, 9, 10, 11]
    assert len(filtered.datasets["test"]) == 12
    batch = filtered.datasets["train"][[2, 3]]
    assert batch.row.tolist() == [3, 4]
    np.testing.assert_array_equal(batch.image.numpy(), images[[3, 4]])
    np.testing.assert_array_equal(batch.label.numpy(), labels[[3, 4]])


def test_an_audits_findings_leave_training_only(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "findings.parquet"
    found = [
        ("train", 5, "nan_pixels", "3"),
        ("train", 9, "duplicate", "train:2"),
        ("train", 9, "outlier", "250.0"),
        ("train", 11, "outlier", "250.0"),
        ("test", 1, "nan_pixels", "1"),
    ]
    table = pd.DataFrame(found, columns=COLUMNS)
    write_findings(table, path, PCamDataModule(root).fingerprint)
    datamodule = loaded(root, exclude=path)
    assert set(range(48)) - set(datamodule.datasets["train"].rows.tolist()) == {5, 9}
    assert datamodule.dropped == {"blank": 0, "excluded": 2}
    assert len(datamodule.datasets["test"]) == 20
    some = loaded(root, exclude=path, exclude_kinds=["outlier"])
    assert set(range(48)) - set(some.datasets["train"].rows.tolist()) == {9, 11}
    drawn = np.concatenate([batch.row.numpy() for batch in datamodule.train_dataloader()])
    assert not np.isin(drawn, (5, 9)).any() and len(drawn) == 40


def test_findings_of_other_files_are_rejected(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "findings.parquet"
    write_findings(pd.DataFrame([], columns=COLUMNS), path, "0" * 32)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="made on other files"):
        loaded(root, exclude=path)
    with pytest.raises(InputError, match="no such file"):
        loaded(root, exclude=tmp_path / "none.parquet")
    path.write_bytes(b"PAR1")
    with pytest.raises(InputError, match="not the findings of an audit"):
        loaded(root, exclude=path)


@pytest.mark.parametrize(
    ("stage", "splits"),
    [
        ("fit", {"train", "valid"}),
        ("validate", {"valid"}),
        ("predict", {"test"}),
        (None, set(SPLITS)),
    ],
)
def test_a_stage_converts_its_own_splits(tmp_path: Path, stage: str | None, splits: set) -> None:
    for seed, split in enumerate(SPLITS):
        write_split(tmp_path, split, *random_split(4, seed), dtype=np.float32)
    datamodule = PCamDataModule(tmp_path)
    datamodule.setup(stage)
    assert set(datamodule.datasets) == splits
    assert {path.name.split("_")[4] for path in tmp_path.glob(".uint8/*.npy")} == splits
    mapped = dict(datamodule.datasets)
    datamodule.setup("test")
    datamodule.setup("fit")
    assert all(datamodule.datasets[split] is mapped[split] for split in splits)
    assert len(datamodule.datasets) == 3


def test_passes_over_the_training_patches_are_made_once(pcam_root: Path, monkeypatch) -> None:
    images, labels = random_split(12)
    images[5] = 0
    write_split(pcam_root, "train", images, labels)
    first = loaded(pcam_root, filter="blank", normalize="train")
    statistics = first.channel_statistics
    monkeypatch.setattr("pcam_lightning.data.datamodule.chunks", None)
    second = loaded(pcam_root, filter="blank", normalize="train")
    assert second.channel_statistics == statistics and second.dropped == first.dropped
    np.testing.assert_array_equal(second.datasets["train"].rows, first.datasets["train"].rows)


def test_a_finding_beyond_the_end_of_its_split_is_rejected(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "findings.parquet"
    found = [("train", 47, "nan_pixels", "1"), ("test", 20, "nan_pixels", "1")]
    table = pd.DataFrame(found, columns=COLUMNS)
    write_findings(table.iloc[:1], path, PCamDataModule(root).fingerprint)
    assert len(loaded(root, exclude=path).datasets["train"]) == 47
    write_findings(table, path, PCamDataModule(root).fingerprint)
    with pytest.raises(InputError, match="finding 1 has row '20'"):
        loaded(root, exclude=path)


def test_normalization_equals_numpys_mean_and_deviation(
    pcam_root: Path,
) -> None:
    images, labels = random_split(48)
    images[3] = 0
    images[..., 1] //= 2
    write_split(pcam_root, "train", images, labels)
    assert loaded(pcam_root).channel_statistics == ([0.5] * 3, [0.5] * 3)
    mean, std = loaded(pcam_root, normalize="train", filter="blank").channel_statistics
    kept = np.delete(images, 3, axis=0) / 255
    np.testing.assert_allclose(mean, kept.mean(axis=(0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, kept.std(axis=(0, 1, 2)), rtol=1e-9)


def test_training_patches_of_one_color_are_rejected(pcam_root: Path) -> None:
    images, labels = random_split(8)
    write_split(pcam_root, "train", np.full_like(images, 255), labels)
    with pytest.raises(InputError, match=r"data\.normalize=train"):
        _ = loaded(pcam_root, normalize="train").channel_statistics
    with pytest.raises(InputError, match=r"data\.filter"):
        loaded(pcam_root, filter="blank")


@pytest.mark.parametrize(
    ("asked", "free", "workers", "kept"),
    [
        ("auto", 5e6, 0, True),  # 88 patches take 2.43 MB
        ("auto", 4.8e6, 0, False),
        ("auto", 5e9, 2, False),
        (True, 0, 0, True),
        (False, 5e9, 0, False),
    ],
)
def test_splits_stay_on_a_gpu_if_they_take_at_most_half_of_its_free_memory(
    root: Path, monkeypatch, asked, free: float, workers: int, kept: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free, 80e9))
    datamodule = loaded(root, device_resident=asked, num_workers=workers)
    assert datamodule._keeps_on(torch.device("cuda", 0)) is kept


def test_splits_cannot_stay_on_a_gpu_that_is_not_used(root: Path) -> None:
    assert not loaded(root)._keeps_on(torch.device("cpu"))
    with pytest.raises(InputError, match="no GPU in use"):
        loaded(root, device_resident=True).train_dataloader()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"sampler": "random"}, "balanced, shuffle"),
        ({"filter": "all"}, "none, blank"),
        ({"normalize": "imagenet"}, "symmetric, train"),
        ({"device_resident": "gpu"}, "auto, True, False"),
        ({"exclude_kinds": ["dust"]}, "'dust'; expected some of nan_pixels"),
        ({"device_resident": True, "num_workers": 2}, "never pass through num_workers=2"),
    ],
)
def test_invalid_arguments_are_rejected(root: Path, arguments: dict, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        PCamDataModule(root, **arguments)


def test_a_batch_larger_than_the_training_set_is_rejected(root: Path) -> None:
    datamodule = PCamDataModule(root, batch_size=49)
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
