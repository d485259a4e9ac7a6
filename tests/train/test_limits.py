"""Limits that leave no batch to train, validate or test are reported before training.

The data set has 48 / 20 / 20 patches, so that batches of 8 are 6 / 3 / 3 of them.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightning import Trainer
from pcam_files import random_split, write_split

from pcam_lightning.data import PCamDataModule
from pcam_lightning.errors import InputError
from pcam_lightning.train.limits import check_batches, check_classes

AUROC = {"checkpoint": {"monitor": "val/auroc"}, "early_stopping": None}


def made(root: Path, **limits: Any) -> tuple[Trainer, PCamDataModule]:
    datamodule = PCamDataModule(root, batch_size=8)
    datamodule.setup()
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False}
    return Trainer(accelerator="cpu", max_epochs=1, **quiet, **limits), datamodule


@pytest.mark.parametrize(
    "limits",
    [
        {"limit_train_batches": 0.1},
        {"limit_val_batches": 0.3},
        {"limit_test_batches": 0.01},
        {"overfit_batches": 0.01},
        {"val_check_interval": 7},
        {"val_check_interval": 3, "limit_train_batches": 2},
    ],
    ids=str,
)
def test_limits_that_leave_no_batch(pcam_root: Path, limits: dict[str, Any]) -> None:
    with pytest.raises(InputError) as caught:
        check_batches(*made(pcam_root, **limits))
    message, (key, value) = str(caught.value), next(iter(limits.items()))
    assert message.startswith(f"trainer.{key}={value}: ") and "\n" not in message


@pytest.mark.parametrize(
    "limits",
    [
        {},
        {"limit_train_batches": 0.17, "limit_val_batches": 0.34, "limit_test_batches": 0.34},
        {"limit_train_batches": 100, "limit_val_batches": 1},
        {"overfit_batches": 1},
        {"val_check_interval": 6},
        {"val_check_interval": 7, "check_val_every_n_epoch": None},
        {"val_check_interval": 0.01},
    ],
    ids=str,
)
def test_limits_that_leave_a_batch(pcam_root: Path, limits: dict[str, Any]) -> None:
    check_batches(*made(pcam_root, **limits))


@pytest.mark.parametrize("label", [0, 1])
def test_a_monitored_metric_must_be_defined(pcam_root: Path, label: int) -> None:
    labels = np.full(20, label)
    labels[8:] = 1 - label
    write_split(pcam_root, "valid", random_split(20)[0], labels)
    check_classes(AUROC, *made(pcam_root))
    only_first = made(pcam_root, limit_val_batches=1)
    check_classes({"checkpoint": {"monitor": "val/loss"}}, *only_first)
    with pytest.raises(InputError) as caught:
        check_classes(AUROC, *only_first)
    message = str(caught.value)
    assert "split_valid_y.h5: " in message and "callbacks.checkpoint.monitor" in message
