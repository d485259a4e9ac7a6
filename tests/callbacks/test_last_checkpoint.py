"""A run that a signal stops anywhere ends as if nothing had happened, bit for bit."""

import signal
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop

from pcam_lightning.callbacks import GradientNorm, LastCheckpoint
from pcam_lightning.checkpoint_io import AtomicCheckpointIO
from pcam_lightning.data import PCamDataModule
from pcam_lightning.errors import Preempted
from pcam_lightning.loggers import CSVLogger
from pcam_lightning.models import MLP
from pcam_lightning.module import PCamClassifier
from pcam_lightning.runs.stop_signals import SIGNALS, stop_signals
from pcam_lightning.schedulers import cosine, plateau

EPOCHS, STEPS, VALIDATION_BATCHES = 3, 6, 3


class Raising(Callback):
    """Raises signals at the `count`th call of a hook."""

    def __init__(self, hook: str, count: int, *numbers: int) -> None:
        self.calls, self.count, self.numbers = 0, count, numbers
        setattr(self, hook, self._called)

    def _called(self, *_, **__) -> None:
        self.calls += 1
        if self.calls == self.count:
            for number in self.numbers:
                signal.raise_signal(number)


class Validations(Callback):
    """Counts the validations that ended."""

    ended = 0

    def on_validation_end(self, trainer: Trainer, pl_module) -> None:
        self.ended += trainer.state.fn == "fit"


def run(root: Path, folder: Path, *more: Callback, scheduler=cosine, **arguments) -> Trainer:
    """Fit, validate and test in a folder, from its last checkpoint if it has one."""
    torch.manual_seed(0)
    module = PCamClassifier(
        MLP((8,), dropout=0.5), lambda p: torch.optim.Adam(p, lr=0.01), scheduler=scheduler
    )
    checkpoints, metrics = folder / "checkpoints", folder / "metrics.csv"
    callbacks = [
        GradientNorm(folder / "gradients.parquet"),
        ModelCheckpoint(checkpoints, "best", monitor="val/auroc", enable_version_counter=False),
        LastCheckpoint(str(checkpoints / "last.ckpt"), str(metrics)),
    ]
    trainer = Trainer(
        **{
            "max_epochs": EPOCHS,
            "accelerator": "cpu",
            "logger": CSVLogger(str(folder)),
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
            "log_every_n_steps": 1,
            "callbacks": [*more, *callbacks],
            "plugins": [AtomicCheckpointIO()],
        }
        | arguments
    )
    last = checkpoints / "last.ckpt"
    datamodule = PCamDataModule(root, batch_size=8)
    with stop_signals.listening():
        trainer.fit(
            module, datamodule, ckpt_path=last if last.exists() else None, weights_only=True
        )
        trainer.validate(module, datamodule, verbose=False)
        trainer.test(module, datamodule, verbose=False)
    return trainer


def result(folder: Path) -> tuple[dict, pd.DataFrame, pd.DataFrame]:
    """Weights, metrics and gradients."""
    weights = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    metrics = pd.read_csv(folder / "metrics.csv")
    return (
        weights,
        metrics.reindex(columns=sorted(metrics)),
        pd.read_parquet(folder / "gradients.parquet"),
    )


def assert_same(folder: Path, expected: Path) -> None:
    (weights, *tables), (whole, *others) = result(folder), result(expected)
    assert all(torch.equal(weights[name], whole[name]) for name in whole)
    for table, other in zip(tables, others, strict=True):
        pd.testing.assert_frame_equal(table, other, check_exact=True)


@pytest.mark.parametrize(
    ("hook", "count"),
    [
        ("on_train_batch_start", 1),
        ("on_train_batch_start", STEPS),
        ("on_validation_batch_start", 1),
        ("on_validation_batch_start", VALIDATION_BATCHES),
        ("on_validation_batch_start", VALIDATION_BATCHES + 2),
        ("on_validation_batch_start", EPOCHS * VALIDATION_BATCHES - 1),
        ("on_validation_batch_start", EPOCHS * VALIDATION_BATCHES + 2),  # after training
        ("on_save_checkpoint", 1),
        ("on_test_batch_start", 2),
        ("on_test_end", 1),
    ],
)
def test_a_stopped_run_ends_the_same(
    pcam_root: Path, tmp_path: Path, hook: str, count: int
) -> None:
    run(pcam_root, tmp_path / "whole")
    folder = tmp_path / "run"
    # Slurm's SIGTERM follows its SIGUSR2: the first one counts.
    stop = Raising(hook, count, signal.SIGUSR2, signal.SIGTERM)
    with pytest.raises(Preempted) as stopped:
        run(pcam_root, folder, stop)
    assert stopped.value.exit_code == 128 + signal.SIGUSR2
    assert (folder / "checkpoints" / "last.ckpt").is_file()
    run(pcam_root, folder)
    assert_same(folder, tmp_path / "whole")
