"""Runs on a small disk that fills up: one error line, no torn file, and the run can continue."""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from command_processes import CONTEXT, redirect, run_train
from lightning import Callback, LightningModule, Trainer
from small_disk import NO_DISK, mount_disk

from pcam_lightning.runs import Run


class Filling(Callback):
    """Fills the disk of a folder once, in the second epoch, and leaves `room` bytes free."""

    def __init__(self, folder: str, room: int) -> None:
        self.folder, self.room = Path(folder), room

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == 10 and not (self.folder / "filled").exists():
            (self.folder / "filled").touch()
            disk = os.statvfs(self.folder)
            (self.folder / "junk").write_bytes(bytes(disk.f_bavail * disk.f_frsize - self.room))


def train_on_small_disk(disk: Path, arguments: list[str], copies: list[Path]) -> None:
    """Train on a disk that only this process sees, once for each copy of the run folder.

    Before a second start, the file that fills the disk is removed. Exits with the code of the
    first start; stdout and stderr of each start are written beside its copy.
    """
    if not mount_disk(disk):
        sys.exit(NO_DISK)
    codes = []
    for copy in copies:
        (disk / "junk").unlink(missing_ok=True)
        redirect(f"{copy}.out", f"{copy}.err")
        try:
            run_train(arguments)
            codes.append(0)
        except SystemExit as stop:
            codes.append(int(stop.code or 0))
        shutil.copytree(disk / "run", copy)
    sys.exit(codes[0])


@pytest.fixture
def on_small_disk(tmp_path: Path) -> Callable[..., int]:
    """Run `train_on_small_disk` in a process, and return its exit code."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def run(arguments: list[str], *copies: Path) -> int:
        process = CONTEXT.Process(target=train_on_small_disk, args=(disk, arguments, [*copies]))
        process.start()
        process.join(300)
        assert process.exitcode is not None
        if process.exitcode == NO_DISK:
            pytest.skip("a disk cannot be mounted here: neither as root nor in a user namespace")
        return process.exitcode

    return run


def arguments(tmp_path: Path, *more: str) -> list[str]:
    return [
        "data=demo",
        f"data.demo.parent={tmp_path / 'demo'}",
        "data.demo.train=256",
        "data.demo.valid=32",
        "data.demo.test=32",
        "data.batch_size=32",
        "model=cnn",
        "model.channels=[16,32]",
        "trainer=cpu",
        "trainer.precision=32-true",
        "trainer.log_every_n_steps=1",
        "logger=csv",
        "+callbacks.filling._target_=test_full_disk.Filling",
        f"+callbacks.filling.folder={tmp_path / 'disk'}",
        f"hydra.run.dir={tmp_path / 'disk' / 'run'}",
        *more,
    ]


def assert_failed(code: int, run: Run, name: str) -> None:
    error = Path(f"{run.path}.err").read_text()
    assert code == 2, error
    (line,) = error.splitlines()
    assert line.startswith("error: ") and "No space left on device" in line
    assert f"/run/{name}" in line
    assert (run.state, run.status["error"]["text"]) == ("failed", line.removeprefix("error: "))
    assert not [path for path in run.path.rglob("*") if path.suffix in (".tmp", ".partial")]


@pytest.mark.parametrize(
    ("room", "name"),
    [(64 * 1024, "checkpoints/"), pytest.param(0, "gradients.parquet: ", marks=pytest.mark.slow)],
)
def test_a_full_disk_fails_in_one_line_and_the_run_can_continue(
    on_small_disk, command: Callable, tmp_path: Path, room: int, name: str
) -> None:
    words = arguments(tmp_path, "trainer.max_epochs=3", f"+callbacks.filling.room={room}")
    full, after = tmp_path / "full", tmp_path / "after"
    code = on_small_disk(words, full, after)
    run = Run(full)
    assert_failed(code, run, name)
    assert torch.load(run.last_checkpoint, weights_only=True)["global_step"] == 8
    assert torch.load(run.best_checkpoint, weights_only=True)["state_dict"]
    assert run.gradients["step"].tolist() == list(range(16 if room else 8))
    assert len(run.metrics.dropna(subset=["train/loss"])) == 16

    assert Path(f"{after}.err").read_text() == ""
    code, _, err = command(*words, "~callbacks.filling", "hydra.run.dir=whole")
    assert code == 0, err
    run, whole = Run(after), Run("whole")
    assert (run.state, run.status["attempt"]) == ("finished", 2)
    assert run.summary["weights_digest"] == whole.summary["weights_digest"]
    pd.testing.assert_frame_equal(run.gradients, whole.gradients, check_exact=True)


@pytest.mark.slow
def test_no_half_row_of_metrics_is_left(on_small_disk, tmp_path: Path) -> None:
    full = tmp_path / "full"
    more = ["trainer.max_epochs=14", "+callbacks.filling.room=0", "callbacks.gradient_norm=null"]
    more += ["callbacks.checkpoint=null", "callbacks.last_checkpoint=null"]
    more += ["+trainer.enable_checkpointing=false"]
    code = on_small_disk(arguments(tmp_path, *more), full)
    run = Run(full)
    assert_failed(code, run, "metrics.csv: ")
    text = (full / "metrics.csv").read_text()
    assert text.endswith("\n")
    assert len({line.count(",") for line in text.splitlines()}) == 1
    assert len(run.metrics.dropna(subset=["train/loss"])) > 10
