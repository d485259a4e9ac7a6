from pathlib import Path

import numpy as np
import torch
from torchvision.datasets import PCAM

from pcam_lightning.benchmark.loader import TRANSFORM, SampleAtATime, implementations
from pcam_lightning.data import PCamDataModule


def test_every_implementation_yields_full_batches_of_the_training_split(pcam_root: Path) -> None:
    datamodule = PCamDataModule(pcam_root, batch_size=20)
    datamodule.setup()
    loaders = implementations(datamodule, torch.float32)
    assert list(loaders) == [
        "memory copy",
        "pcam_lightning",
        "sample at a time",
        "torchvision PCAM",
    ]
    for name, start in loaders.items():
        assert [sample.patches for sample in start()] == [20, 20], name


def test_the_naive_dataset_equals_torchvisions(pcam_root: Path, tmp_path: Path) -> None:
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "pcam").symlink_to(pcam_root)
    expected = PCAM(str(tmp_path / "torchvision"), split="train", transform=TRANSFORM)
    dataset = SampleAtATime(PCamDataModule(pcam_root).files("train"))
    assert len(dataset) == len(expected) == 48
    for row in (0, 1, 47):
        np.testing.assert_array_equal(dataset[row][0], expected[row][0])
        assert dataset[row][1] == expected[row][1]
