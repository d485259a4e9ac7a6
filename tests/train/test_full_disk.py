"""Runs on a small disk of their own that fills up: one line, no torn file, and then onwards."""

import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from lightning import Callback, LightningModule, Trainer

from pcam_lightning.runs import Run

NAMESPACES = (["unshare", "--user", "--map-root-user", "--mount"], ["unshare", "--mount"])
MOUNT = "mount -t tmpfs -o size=8m tmpfs"


class Filling(Callback):
    """Fills the disk of a folder once, in the second epoch, but for some bytes."""

    def __init__(self, folder: str, room: int) -> None:
        self.folder, self.room = Path(folder), room

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == 10 and not (self.folder / "filled").exists():
            (self.folder / "filled").touch()
            disk = os.statvfs(self.folder)
            (self.folder / "junk").write_bytes(bytes(disk.f_bavail * disk.f_frsize - self.room))


@pytest.fixture
def on_small_disk(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run shell lines with `$DISK`, a disk of 8 MB that is there for them alone."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f"{MOUNT} {shlex.quote(str(disk))}"
    for namespace in NAMESPACES:
        try:
            if not subprocess.run([*namespace, *mount.split()], capture_output=True).returncode:
                break
        except OSError:
            continue
    else:
        pytest.skip("a disk cannot be mounted here: neither as root nor in a user namespace")
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {"OMP_NUM_THREADS": "1", "PYTHONPATH": path, "DISK": str(disk)}

    def run(lines: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*namespace, "sh", "-c", f"{mount} && {lines}"],
            env=os.environ | environment,
            capture_output=True,
            text=True,
            timeout=300,
        )

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


def train(tmp_path: Path, *more: str) -> str:
    return shlex.join([sys.executable, "-m", "pcam_lightning.train", *arguments(tmp_path, *more)])


def assert_failed(answer: subprocess.CompletedProcess[str], run: Run, name: str) -> None:
    assert answer.returncode == 2, answer.stderr
    (line,) = answer.stderr.splitlines()
    assert line.startswith("error: ") and "No space left on device" in line
    assert f"/run/{name}" in line
    assert (run.state, run.status["error"]["text"]) == ("failed", line.removeprefix("error: "))
    assert not [path for path in run.path.rglob("*") if path.suffix in (".tmp", ".partial")]


@pytest.mark.parametrize(
    ("room", "name"),
    [(64 * 1024, "checkpoints/"), pytest.param(0, "gradients.parquet: ", marks=pytest.mark.slow)],
)
def test_it_fails_in_one_line_and_goes_on_when_there_is_room(
    on_small_disk, command: Callable, tmp_path: Path, room: int, name: str
) -> None:
    more = ["trainer.max_epochs=3", f"+callbacks.filling.room={room}"]
    full, after = tmp_path / "full", tmp_path / "after"
    command_line = train(tmp_path, *more)
    answer = on_small_disk(
        f"{command_line}; code=$?; cp -r $DISK/run {full}; rm $DISK/junk; "
        f"{command_line} 2> {tmp_path / 'second'}; cp -r $DISK/run {after}; exit $code"
    )
    run = Run(full)
    assert_failed(answer, run, name)
    assert torch.load(run.last_checkpoint, weights_only=True)["global_step"] == 8
    assert torch.load(run.best_checkpoint, weights_only=True)["state_dict"]
    assert run.gradients["step"].tolist() == list(range(16 if room else 8))
    assert len(run.metrics.dropna(subset=["train/loss"])) == 16

    assert (tmp_path / "second").read_text() == ""
    code, _, err = command(*arguments(tmp_path, *more), "~callbacks.filling", "hydra.run.dir=whole")
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
    answer = on_small_disk(f"{train(tmp_path, *more)}; code=$?; cp -r $DISK/run {full}; exit $code")
    run = Run(full)
    assert_failed(answer, run, "metrics.csv: ")
    text = (full / "metrics.csv").read_text()
    assert text.endswith("\n")
    assert len({line.count(",") for line in text.splitlines()}) == 1
    assert len(run.metrics.dropna(subset=["train/loss"])) > 10
