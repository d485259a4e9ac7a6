"""A run that a signal interrupts anywhere ends bit-identical to an uninterrupted run."""

import signal
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping, EMAWeightAveraging, ModelCheckpoint
from pcam_files import SPLITS, random_split, write_split

from pcam_lightning.data import PCamDataModule
from pcam_lightning.engine.callbacks import GradientNorm, PreemptionCheckpoint
from pcam_lightning.engine.checkpoints import AtomicCheckpointIO, check_checkpoint
from pcam_lightning.engine.loggers import CSVLogger
from pcam_lightning.engine.module import PCamClassifier
from pcam_lightning.engine.schedulers import cosine, plateau
from pcam_lightning.errors import Preempted
from pcam_lightning.models import MLP
from pcam_lightning.runs.stop_signals import stop_signals

pytestmark = pytest.mark.xdist_group("preemption")  # one process has the fixtures

EPOCHS, STEPS, VALIDATION_BATCHES = 3, 6, 3


class Raising(Callback):
    """Callback that raises signals at the `count`th call of a hook."""

    def __init__(self, hook: str, count: int, *numbers: int) -> None:
        self.calls, self.count, self.numbers = 0, count, numbers
        setattr(self, hook, self._called)

    def _called(self, *_, **__) -> None:
        self.calls += 1
        if self.calls == self.count:
            for number in self.numbers:
                signal.raise_signal(number)


def run(
    root: Path,
    folder: Path,
    *more: Callback,
    scheduler=cosine,
    averaged: bool = False,
    every_minutes: float = 5.0,
    **arguments,
) -> Trainer:
    """Fit, validate and test in a folder, from its last checkpoint if there is one."""
    torch.manual_seed(0)
    module = PCamClassifier(
        MLP((8,), dropout=0.5), lambda p: torch.optim.Adam(p, lr=0.01), scheduler=scheduler
    )
    checkpoints, metrics = folder / "checkpoints", folder / "metrics.csv"
    callbacks = [
        GradientNorm(folder / "gradients.parquet"),
        ModelCheckpoint(checkpoints, "best", monitor="val/auroc", enable_version_counter=False),
        PreemptionCheckpoint(str(checkpoints / "last.ckpt"), str(metrics), every_minutes),
    ]
    if averaged:  # validates with other weights than the trained ones
        callbacks.append(EMAWeightAveraging(decay=0.5))
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
    """Return weights, metrics and gradients."""
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


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    for seed, (split, rows) in enumerate(zip(SPLITS, (48, 20, 20), strict=True)):
        write_split(root, split, *random_split(rows, seed))
    return root


@pytest.fixture(scope="module")
def whole(root: Path, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    run(root, folder)
    return folder


def stop(root: Path, folder: Path, hook: str, count: int, **arguments) -> None:
    # Slurm sends SIGUSR2, then SIGTERM: the first one counts.
    with pytest.raises(Preempted) as stopped:
        run(root, folder, Raising(hook, count, signal.SIGUSR2, signal.SIGTERM), **arguments)
    assert stopped.value.exit_code == 128 + signal.SIGUSR2
    assert (folder / "checkpoints" / "last.ckpt").is_file()


@pytest.mark.parametrize(
    ("hook", "count"),
    [
        ("on_train_batch_start", 1),
        ("on_train_batch_start", STEPS),
        ("on_validation_batch_start", 1),
        ("on_validation_batch_start", EPOCHS * VALIDATION_BATCHES - 1),
        ("on_validation_batch_start", EPOCHS * VALIDATION_BATCHES + 2),  # after training
        ("on_save_checkpoint", 1),
        ("on_test_batch_start", 2),
        ("on_test_end", 1),
    ],
)
def test_a_stopped_run_ends_the_same(
    root: Path, tmp_path: Path, whole: Path, hook: str, count: int
) -> None:
    stop(root, tmp_path, hook, count)
    run(root, tmp_path)
    assert_same(tmp_path, whole)


def test_a_validation_is_interrupted_again_and_again(
    root: Path, tmp_path: Path, whole: Path
) -> None:
    for _ in range(2):
        stop(root, tmp_path, "on_validation_batch_start", 1)
        metrics = pd.read_csv(tmp_path / "metrics.csv")
        assert len(metrics) == STEPS and "val/auroc" not in metrics
        assert not (tmp_path / "checkpoints" / "best.ckpt").exists()
    # Stops at the first step of the next epoch, after the validation.
    stop(root, tmp_path, "on_train_batch_start", 1)
    assert len(pd.read_csv(tmp_path / "metrics.csv")["val/auroc"].dropna()) == 1
    run(root, tmp_path)
    assert_same(tmp_path, whole)


@pytest.mark.parametrize(
    "arguments",
    [
        {"val_check_interval": 0.5},
        {"check_val_every_n_epoch": 2},
        {"accumulate_grad_batches": 4, "val_check_interval": 0.5},
        {"averaged": True},
        {"num_sanity_val_steps": 1},
        {"scheduler": partial(plateau, patience=0)},
    ],
    ids=" ".join,
)
def test_settings_that_change_the_validation(root: Path, tmp_path: Path, arguments: dict) -> None:
    run(root, tmp_path / "whole", **arguments)
    folder = tmp_path / "run"
    if "num_sanity_val_steps" in arguments:
        with pytest.raises(Preempted):
            run(root, folder, Raising("on_validation_batch_start", 1, signal.SIGHUP), **arguments)
        assert not folder.exists() or not list(folder.glob("checkpoints/last.ckpt"))
    stop(root, folder, "on_validation_batch_start", VALIDATION_BATCHES + 2, **arguments)
    run(root, folder, **arguments)
    assert_same(folder, tmp_path / "whole")


def test_the_validation_after_the_last_step_is_not_interrupted(root: Path, tmp_path: Path) -> None:
    """Lightning (2.6) does not repeat it after a resume, since no step is left."""
    limits = {"max_epochs": -1, "max_steps": 2 * STEPS}
    stop(root, tmp_path, "on_validation_batch_start", VALIDATION_BATCHES + 2, **limits)
    assert len(pd.read_csv(tmp_path / "metrics.csv")["val/auroc"].dropna()) == 2


BY_STEPS = {
    "max_epochs": -1,
    "max_steps": 14,
    "val_check_interval": 4,
    "check_val_every_n_epoch": None,
}
"""Validations after 4, 8, 12 and 14 steps, with epochs of 6 steps."""


class Killed(BaseException):
    """End of a run that saves nothing more."""


class Killing(Raising):
    """Callback that ends the run at the `count`th call of a hook, as a kill does."""

    def _called(self, *_, **__) -> None:
        self.calls += 1
        if self.calls == self.count:
            raise Killed


@pytest.fixture(scope="module")
def whole_by_steps(root: Path, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole_by_steps")
    run(root, folder, **BY_STEPS)
    found = pd.read_csv(folder / "metrics.csv").dropna(subset=["val/auroc"])["step"]
    assert found.tolist() == [3, 7, 11, 13, 14]  # the last one is of `validate`
    return folder


@pytest.mark.parametrize(
    ("hook", "count"),
    [
        ("on_train_batch_start", 4),  # a validation follows this step
        ("on_validation_batch_start", 2),
        ("on_validation_end", 1),
        ("on_train_epoch_end", 1),  # Lightning takes it for a stop inside the epoch
        ("on_train_batch_start", 14),
        ("on_test_batch_start", 1),  # no step is left
    ],
)
@pytest.mark.parametrize("killed", [False, True], ids=["stopped", "killed"])
def test_a_run_by_steps_ends_the_same(
    root: Path, tmp_path: Path, whole_by_steps: Path, hook: str, count: int, killed: bool
) -> None:
    if killed:
        with pytest.raises(Killed):
            run(root, tmp_path, Killing(hook, count), every_minutes=0, **BY_STEPS)
    else:
        stop(root, tmp_path, hook, count, **BY_STEPS)
    run(root, tmp_path, **BY_STEPS)
    assert_same(tmp_path, whole_by_steps)


@pytest.mark.parametrize("settings", [{}, {"val_check_interval": 2}], ids=str)
def test_a_run_that_early_stopping_ended_trains_no_further(
    root: Path, tmp_path: Path, settings: dict
) -> None:
    def stopping() -> EarlyStopping:
        return EarlyStopping("val/auroc", patience=1, mode="max", min_delta=1.0)

    whole = run(root, tmp_path / "whole", stopping(), max_epochs=9, **settings)
    assert whole.global_step == (4 if settings else 2 * STEPS)
    killing = Killing("on_test_batch_start", 1)
    with pytest.raises(Killed):
        run(root, tmp_path / "run", stopping(), killing, max_epochs=9, **settings)
    last = str(tmp_path / "run" / "checkpoints" / "last.ckpt")
    module = PCamClassifier(MLP((8,)), lambda p: torch.optim.Adam(p), scheduler=cosine)
    check_checkpoint(last, module)  # `train` does not take it for a run that a limit has ended
    run(root, tmp_path / "run", stopping(), max_epochs=9, **settings)
    assert_same(tmp_path / "run", tmp_path / "whole")
