"""A notebook learns why training stopped, and that a metric is undefined, from one line each."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from pcam_files import random_split, write_split

from pcam_lightning.data import PCamDataModule
from pcam_lightning.engine.module import PCamClassifier
from pcam_lightning.errors import InputError
from pcam_lightning.models import MLP


def fitted(root: Path, *callbacks: Any, with_datamodule: bool = True, **settings: Any) -> Trainer:
    torch.manual_seed(0)
    module = PCamClassifier(MLP((4,)), lambda p: torch.optim.SGD(p, lr=settings.pop("lr", 1e-3)))
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "accelerator": "cpu"}
    trainer = Trainer(callbacks=list(callbacks), enable_model_summary=False, **quiet | settings)
    data = PCamDataModule(root, batch_size=16)
    if with_datamodule:
        trainer.fit(module, data)
    else:
        trainer.fit(module, data.train_dataloader(), data.val_dataloader())
    return trainer


def lines(caplog, word: str) -> list[str]:
    return [each.getMessage() for each in caplog.records if word in each.getMessage()]


@pytest.mark.parametrize("interval", [1.0, 2])
def test_early_stopping_is_reported_in_one_line(
    pcam_root: Path, caplog, tmp_path: Path, interval: float
) -> None:
    # Nothing is better than the first epoch by 1.
    stopping = EarlyStopping("val/auroc", patience=3, mode="max", min_delta=1.0)
    trainer = fitted(
        pcam_root, stopping, max_epochs=9, default_root_dir=tmp_path, val_check_interval=interval
    )
    assert trainer.current_epoch == 4  # also with an interval: once in each epoch of three batches
    (line,) = lines(caplog, "early stopping")
    assert "after epoch 4: val/auroc" in line and "patience 3" in line
    assert f"{float(stopping.best_score):.4f}" in line and "\n" not in line
    (record,) = [each for each in caplog.records if "early stopping" in each.getMessage()]
    assert record.levelno == logging.WARNING  # a notebook shows no lower level


def test_a_fit_that_ends_otherwise_reports_no_early_stopping(
    pcam_root: Path, caplog, tmp_path: Path
) -> None:
    fitted(
        pcam_root, EarlyStopping("val/loss", patience=3), max_epochs=2, default_root_dir=tmp_path
    )
    assert not lines(caplog, "early stopping")


@pytest.mark.parametrize("with_datamodule", [True, False])
@pytest.mark.parametrize("kind", [ModelCheckpoint, EarlyStopping])
def test_an_undefined_monitor_is_an_error(
    pcam_root: Path, tmp_path: Path, with_datamodule: bool, kind: type
) -> None:
    write_split(pcam_root, "valid", random_split(20)[0], np.zeros(20))
    steps = []

    class Recording(kind):
        def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
            steps.append(1)

    callback = Recording(monitor="val/auroc", mode="max")
    with pytest.raises(InputError) as caught:
        fitted(
            pcam_root, callback, with_datamodule=with_datamodule, max_epochs=9,
            default_root_dir=tmp_path,
        )  # fmt: skip
    message = str(caught.value)
    assert "all normal" in message and "monitor='val/loss'" in message and "\n" not in message
    assert ("split_valid_y.h5" in message) == with_datamodule
    assert len(steps) == (0 if with_datamodule else 3)  # before training, if the labels are known


@pytest.mark.parametrize("with_datamodule", [True, False])
def test_training_goes_on_if_no_callback_needs_the_undefined_metric(
    pcam_root: Path, tmp_path: Path, caplog, with_datamodule: bool
) -> None:
    write_split(pcam_root, "valid", random_split(20)[0], np.ones(20))
    best = ModelCheckpoint(tmp_path, monitor="val/loss")
    trainer = fitted(
        pcam_root, best, EarlyStopping("val/loss", patience=9), with_datamodule=with_datamodule,
        max_epochs=3, default_root_dir=tmp_path,
    )  # fmt: skip
    assert trainer.current_epoch == 3 and Path(best.best_model_path).is_file()
    assert torch.isnan(trainer.callback_metrics["val/auroc"])
    (line,) = lines(caplog, "val/auroc")
    assert "all tumour" in line
