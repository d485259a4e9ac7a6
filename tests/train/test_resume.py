"""Runs that are stopped or killed at any moment end bit-identical to an uninterrupted run."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest
import torch
from command_processes import CommandProcess, checkpoint_time, wait_for
from pcam_files import random_split, write_split

from pcam_lightning.runs import Run

pytestmark = pytest.mark.xdist_group("resume")  # one process has the fixtures

KILLS = int(os.environ.get("PCAM_KILLS", "3"))
EPOCHS, STEPS = 4, 32
AT_EPOCH_ENDS = "callbacks.last_checkpoint.every_minutes=60"
CLOCKS = ("train/patches_per_second", "train/waiting_for_data")


def write_dark_centers(root: Path, inverted: Sequence[str] = ()) -> None:
    """Write splits whose tumour patches have a dark center; invert the labels of some splits."""
    for seed, (split, rows) in enumerate((("train", 128), ("valid", 32), ("test", 32))):
        images, labels = random_split(rows, seed)
        images[labels == 1, 32:64, 32:64] //= 2
        write_split(root, split, images, ~labels if split in inverted else labels)


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> list[str]:
    root = tmp_path_factory.mktemp("data")
    write_dark_centers(root)
    return [
        f"data.root={root}",
        "data.batch_size=16",
        "model=cnn",
        "model.channels=[4,8]",
        "model.dropout=0.3",
        "trainer=cpu",
        f"trainer.max_epochs={EPOCHS}",
        "trainer.log_every_n_steps=1",
        "callbacks.last_checkpoint.every_minutes=0",
        "logger=csv",
    ]


def start(setting: Sequence[str], folder: Path, *more: str) -> CommandProcess:
    return CommandProcess([*setting, f"hydra.run.dir={folder}", *more])


def finish(setting: Sequence[str], folder: Path, *more: str) -> Run:
    process = start(setting, folder, *more)
    out, err = process.communicate()
    assert process.returncode == 0, out + err
    return Run(folder)


def kill_after_a_checkpoint(setting: Sequence[str], folder: Path, *more: str) -> None:
    """Start a run, and kill it after the first checkpoint of this start."""
    before = checkpoint_time(folder)
    process = start(setting, folder, *more)
    wait_for(lambda: checkpoint_time(folder) != before, process)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "it ended before it was killed"


@pytest.fixture(scope="module")
def undisturbed(small: list[str], tmp_path_factory) -> Run:
    return finish(small, tmp_path_factory.mktemp("whole") / "run")


def history(run: Run) -> pd.DataFrame:
    table: pd.DataFrame = run.metrics.drop(columns=[name for name in CLOCKS if name in run.metrics])
    table = table.dropna(how="all", subset=[c for c in table if c not in ("epoch", "step")])
    return table.reindex(columns=sorted(table.columns)).reset_index(drop=True)


def assert_same(run: Run, expected: Run) -> None:
    assert run.summary["weights_digest"] == expected.summary["weights_digest"]
    last, whole = (
        torch.load(each.path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for each in (run, expected)
    )
    assert all(torch.equal(last[name], whole[name]) for name in whole)
    pd.testing.assert_frame_equal(run.gradients, expected.gradients, check_exact=True)
    pd.testing.assert_frame_equal(history(run), history(expected), check_exact=True)
    for split in ("val", "test"):
        pd.testing.assert_frame_equal(
            run.predictions(split), expected.predictions(split), check_exact=True
        )
    assert run.summary["test"] == expected.summary["test"]


def test_a_signal_saves_and_stops_the_run(small: list[str], tmp_path: Path, undisturbed) -> None:
    folder = tmp_path / "run"
    for attempt, name in enumerate(("SIGTERM", "SIGINT", "SIGUSR2"), start=1):
        before = checkpoint_time(folder)
        process = start(small, folder, "data.num_workers=2", AT_EPOCH_ENDS)
        wait_for(lambda before=before: checkpoint_time(folder) != before, process)
        os.killpg(process.pid, getattr(signal, name))  # as a terminal and Slurm do
        _, err = process.communicate()
        assert process.returncode == 128 + getattr(signal, name)
        assert f"preempted: signal {name}" in err.splitlines()[-1]
        assert "Traceback" not in err
        run = Run(folder)
        assert (run.state, run.status["attempt"]) == ("preempted", attempt)
        assert run.status["reason"] == f"signal {name}"
    assert_same(finish(small, folder), undisturbed)


def test_a_run_killed_at_random_steps(small: list[str], tmp_path: Path, undisturbed) -> None:
    folder, chance, step = tmp_path / "run", random.Random(KILLS), 0
    folder.mkdir()
    killed = ("+callbacks.kill._target_=job_callbacks.KillAtStep",)
    killed += ("+callbacks.kill.path=${run_dir}/kill",)
    for _ in range(KILLS):
        step += chance.randint(1, (STEPS - 1) // KILLS)
        (folder / "kill").write_text(str(step))
        process = start(small, folder, *killed)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    (folder / "kill").unlink()
    assert_same(finish(small, folder, *killed), undisturbed)
    assert Run(folder).status["attempt"] == KILLS + 1
    assert not list((folder / "checkpoints").glob(".*"))


@pytest.mark.slow
def test_a_python_process_killed_while_it_scores(
    small: list[str], tmp_path: Path, undisturbed
) -> None:
    folder = tmp_path / "run"
    words = [sys.executable, "-m", "pcam_lightning.train", *small, f"hydra.run.dir={folder}"]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: (folder / "predictions" / "val.parquet").exists(), process)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert_same(finish(small, folder), undisturbed)


@pytest.mark.slow
def test_the_default_cnn_is_killed_at_every_kind_of_moment(tmp_path: Path) -> None:
    """PCAM_KILLS is the number of kills; the files of a killed run show the kind of moment."""
    folder, chance = tmp_path / "run", random.Random(KILLS)
    default = [
        "data=demo",
        f"data.demo.parent={tmp_path / 'demo'}",
        *("data.demo.train=1024", "data.demo.valid=128", "data.demo.test=128"),
        "data.batch_size=32",
        "model=cnn",
        "optimizer=adam",
        "trainer=cpu",
        f"trainer.max_epochs={KILLS + 3}",
        "callbacks.last_checkpoint.every_minutes=0",
        "+callbacks.validating._target_=job_callbacks.Validating",
        "+callbacks.validating.path=${run_dir}/validating",
    ]
    whole = finish(default, tmp_path / "whole")
    checkpoints, validating = folder / "checkpoints", folder / "validating"

    def wait_for_moment(kind: str, process: CommandProcess) -> None:
        if kind == "training":
            time.sleep(chance.uniform(0, 1))
        elif kind == "writing":
            wait_for(lambda: any(checkpoints.glob(".*.tmp")), process, pause=0)
        else:
            wait_for(validating.exists, process)
            time.sleep(chance.uniform(0, 0.3))

    kills = dict.fromkeys(("training", "writing", "validation"), 0)
    while sum(kills.values()) < KILLS or not all(kills.values()):
        before = checkpoint_time(folder)
        process = start(default, folder)
        wait_for(lambda before=before: checkpoint_time(folder) != before, process)
        wait_for_moment(min(kills, key=lambda kind: kills[kind]), process)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        kind = "validation" if validating.exists() else "training"
        kills["writing" if any(checkpoints.glob(".*.tmp")) else kind] += 1
        validating.unlink(missing_ok=True)
    print(f"kills: {kills}")
    assert_same(finish(default, folder), whole)
    assert Run(folder).status["attempt"] == sum(kills.values()) + 1


def test_the_state_of_a_plateau_schedule_is_saved(small: list[str], tmp_path: Path) -> None:
    # Validation labels are inverted: the better the network learns, the higher their loss.
    write_dark_centers(tmp_path / "data", inverted=["valid"])
    plateau = ("scheduler=plateau", "scheduler.patience=0", f"data.root={tmp_path / 'data'}")
    whole = finish(small, tmp_path / "whole", *plateau)
    assert len(set(whole.gradients["lr"])) > 1
    folder = tmp_path / "run"
    for _ in range(2):
        kill_after_a_checkpoint(small, folder, *plateau, AT_EPOCH_ENDS)
    assert_same(finish(small, folder, *plateau), whole)


@pytest.mark.parametrize("name", ["onecycle", "cosine"])
def test_a_schedule_with_an_end_cannot_be_prolonged(
    small: list[str], tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "run"
    kill_after_a_checkpoint(small, folder, f"scheduler={name}")
    process = start(small, folder, f"scheduler={name}", f"trainer.max_epochs={EPOCHS + 2}")
    _, err = process.communicate()
    assert process.returncode == 2
    assert f"{name} schedule ends after {STEPS} steps" in err.splitlines()[-1]
