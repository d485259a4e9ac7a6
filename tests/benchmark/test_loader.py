from pathlib import Path

import numpy as np
import torch
from pcam_files import random_split, write_split
from torchvision.datasets import PCAM
from torchvision.transforms.functional import pil_to_tensor

from pcam_lightning.benchmark.loader import SampleAtATime, contenders, conversion
from pcam_lightning.data import PCamDataModule
from pcam_lightning.data.files import SplitFiles, check_split


def test_every_contender_delivers_whole_batches_of_the_training_split(pcam_root: Path) -> None:
    datamodule = PCamDataModule(pcam_root, batch_size=16)
    datamodule.setup()
    for name, contender in contenders(datamodule, torch.float32).items():
        assert [work.patches for work in contender()] == [16, 16, 16], name


def test_conversion_is_measured_on_the_whole_file_and_leaves_nothing(tmp_path: Path) -> None:
    write_split(tmp_path, "train", *random_split(50), dtype=np.float32, chunks=(7, 96, 96, 3))
    files = SplitFiles(tmp_path, "train")
    check_split(files)  # as the mode does, which leaves what is known of the files beside them
    before = sorted(tmp_path.iterdir())
    racers = conversion(files)
    assert {name: [work.patches for work in racer()] for name, racer in racers.items()} == {
        "sequential read": [50],
        "conversion to uint8": [50],
    }
    assert sorted(tmp_path.iterdir()) == before


def test_the_usual_loader_reads_what_torchvision_reads(pcam_root: Path, tmp_path: Path) -> None:
    (tmp_path / "tv").mkdir()
    (tmp_path / "tv" / "pcam").symlink_to(pcam_root)
    theirs = PCAM(str(tmp_path / "tv"), split="train", transform=pil_to_tensor)
    datamodule = PCamDataModule(pcam_root)
    usual = SampleAtATime(datamodule.files("train"))
    assert len(usual) == len(theirs) == 48
    for row in (0, 1, 47):
        np.testing.assert_array_equal(usual[row][0], theirs[row][0])
        assert usual[row][1] == theirs[row][1]
