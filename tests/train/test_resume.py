"""Runs that are stopped or killed anywhere end as if nothing had happened, bit for bit."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from pcam_files import random_split, write_split

from pcam_lightning.runs import Run

KILLS = int(os.environ.get("PCAM_KILLS", "3"))
WORKERS = ("data.num_workers=2", "callbacks.last_checkpoint.every_minutes=60")
SLOW = ("train/patches_per_second", "train/waiting_for_data")  # clocks, not results


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    for seed, (split, rows) in enumerate((("train", 192), ("valid", 64), ("test", 64))):
        images, labels = random_split(rows, seed)
        images[labels == 1, 32:64, 32:64] //= 2
        write_split(root, split, images, labels)
    return root


def small(root: Path) -> list[str]:
    return [
        f"data.root={root}",
        "data.batch_size=16",
        "model=cnn",
        "model.channels=[4,8]",
        "model.dropout=0.3",
        "trainer=cpu",
        "trainer.max_epochs=4",
        "trainer.log_every_n_steps=1",
        "callbacks.last_checkpoint.every_minutes=0",
        "logger=csv",
    ]


def default_cnn(parent: Path) -> list[str]:
    return [
        "data=demo",
        f"data.demo.parent={parent}",
        "model=cnn",
        "optimizer=adam",
        "trainer=cpu",
        f"trainer.max_epochs={KILLS // 3 + 2}",
        "callbacks.last_checkpoint.every_minutes=0",
        "+callbacks.validating._target_=job_callbacks.Validating",
        "+callbacks.validating.path=${run_dir}/validating",
    ]


def start(root: Path, folder: Path, *more: str, setting=small) -> subprocess.Popen[str]:
    words = [*setting(root), f"hydra.run.dir={folder}", *more]
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-m", "pcam_lightning.train", *words],
        stdout=-1,
        stderr=-1,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        start_new_session=True,
    )


def finish(root: Path, folder: Path, *more: str, setting=small) -> Run:
    process = start(root, folder, *more, setting=setting)
    out, err = process.communicate(timeout=900)
    assert process.returncode == 0, out + err
    return Run(folder)


@pytest.fixture(scope="module")
def undisturbed(root: Path, tmp_path_factory) -> Run:
    return finish(root, tmp_path_factory.mktemp("whole") / "run")


def history(run: Run) -> pd.DataFrame:
    table: pd.DataFrame = run.metrics.drop(columns=[name for name in SLOW if name in run.metrics])
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


def test_the_same_seed_gives_the_same_run_again(root: Path, tmp_path: Path, undisturbed) -> None:
    assert_same(finish(root, tmp_path / "again", "data.num_workers=2"), undisturbed)


def test_a_signal_saves_marks_and_stops(root: Path, tmp_path: Path, undisturbed) -> None:
    folder = tmp_path / "run"
    for attempt, name in enumerate(("SIGTERM", "SIGINT", "SIGUSR2"), start=1):
        before = checkpoint_time(folder)
        process = start(root, folder, *WORKERS)
        wait_for(lambda before=before: checkpoint_time(folder) != before, process)
        os.killpg(process.pid, getattr(signal, name))  # as a terminal and Slurm do
        _, err = process.communicate(timeout=60)
        assert process.returncode == 128 + getattr(signal, name)
        assert f"preempted: signal {name}" in err.splitlines()[-1]
        assert "Traceback" not in err
        run = Run(folder)
        assert (run.state, run.status["attempt"]) == ("preempted", attempt)
        assert run.status["reason"] == f"signal {name}"
    assert_same(finish(root, folder), undisturbed)


def test_killed_again_and_again_it_ends_the_same(root: Path, tmp_path: Path, undisturbed) -> None:
    folder, chance, step = tmp_path / "run", random.Random(KILLS), 0
    folder.mkdir()
    killed = ("+callbacks.kill._target_=job_callbacks.KillAtStep",)
    killed += ("+callbacks.kill.path=${run_dir}/kill",)
    for _ in range(KILLS):
        step += chance.randint(1, 47 // KILLS)
        (folder / "kill").write_text(str(step))
        process = start(root, folder, *killed)
        process.communicate(timeout=240)
        assert process.returncode == -signal.SIGKILL
    (folder / "kill").unlink()
    assert_same(finish(root, folder, *killed), undisturbed)
    assert Run(folder).status["attempt"] == KILLS + 1
    assert not list((folder / "checkpoints").glob(".*"))


@pytest.mark.slow
def test_the_default_cnn_is_killed_at_every_kind_of_moment(tmp_path: Path) -> None:
    """PCAM_KILLS says how often; of what kind each kill was is told by what it left behind."""
    demo, folder, chance = tmp_path / "demo", tmp_path / "run", random.Random(KILLS)
    whole = finish(demo, tmp_path / "whole", setting=default_cnn)
    checkpoints, validating = folder / "checkpoints", folder / "validating"

    def moment(kind: str, process: subprocess.Popen[str]) -> None:
        if kind == "training":
            time.sleep(chance.uniform(0, 2))
        elif kind == "writing":
            wait_for(lambda: any(checkpoints.glob(".*.tmp")), process, pause=0)
        else:
            wait_for(validating.exists, process)
            time.sleep(chance.uniform(0, 0.3))

    kills = dict.fromkeys(("training", "writing", "validation"), 0)
    while sum(kills.values()) < KILLS or not all(kills.values()):
        before = checkpoint_time(folder)
        process = start(demo, folder, setting=default_cnn)
        wait_for(lambda before=before: checkpoint_time(folder) != before, process)
        moment(min(kills, key=lambda kind: kills[kind]), process)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        kind = "validation" if validating.exists() else "training"
        kills["writing" if any(checkpoints.glob(".*.tmp")) else kind] += 1
        validating.unlink(missing_ok=True)
    print(f"kills: {kills}")
    assert_same(finish(demo, folder, setting=default_cnn), whole)
    assert Run(folder).status["attempt"] == sum(kills.values()) + 1


def test_a_plateau_is_remembered_at_an_epochs_end(root: Path, tmp_path: Path) -> None:
    plateau = ("scheduler=plateau", "scheduler.patience=0", "optimizer.lr=0.3")
    whole = finish(root, tmp_path / "whole", *plateau)
    assert len(set(whole.gradients["lr"])) > 1
    folder = tmp_path / "run"
    ends = (*plateau, "callbacks.last_checkpoint.every_minutes=60")
    for _ in range(3):
        kill_after_a_checkpoint(root, folder, *ends)
    assert_same(finish(root, folder, *plateau), whole)


@pytest.mark.parametrize("name", ["onecycle", "cosine"])
def test_a_schedule_with_an_end_cannot_be_prolonged(root: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "run"
    kill_after_a_checkpoint(root, folder, f"scheduler={name}")
    process = start(root, folder, f"scheduler={name}", "trainer.max_epochs=6")
    _, err = process.communicate(timeout=240)
    assert process.returncode == 2
    assert f"{name} schedule ends after 48 steps, expected 72" in err.splitlines()[-1]


def test_killed_while_it_is_tested_it_ends_the_same(
    root: Path, tmp_path: Path, undisturbed
) -> None:
    folder = tmp_path / "run"
    process = start(root, folder)
    wait_for(lambda: (folder / "predictions" / "val.parquet").exists(), process)
    process.kill()
    process.communicate()
    assert_same(finish(root, folder), undisturbed)


def test_another_config_does_not_go_on_in_the_same_folder(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    kill_after_a_checkpoint(root, folder)
    process = start(root, folder, "optimizer.lr=0.5")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "begun with optimizer.lr=0.003, now 0.5" in err.splitlines()[-1]


def kill_after_a_checkpoint(root: Path, folder: Path, *more: str) -> None:
    """Start, and kill after this start's first checkpoint."""
    before = checkpoint_time(folder)
    process = start(root, folder, *more)
    wait_for(lambda: checkpoint_time(folder) != before, process)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "it ended before it was killed"


def checkpoint_time(folder: Path) -> int | None:
    path = folder / "checkpoints" / "last.ckpt"
    return path.stat().st_mtime_ns if path.exists() else None


def wait_for(condition, process: subprocess.Popen[str], pause: float = 0.01) -> None:
    deadline = time.monotonic() + 240
    while not condition() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(pause)


def test_dropout_is_a_stream_of_its_own() -> None:
    from pcam_lightning.engine.module import PCamClassifier
    from pcam_lightning.models import MLP

    module = PCamClassifier(MLP((8,), dropout=0.5))
    seeds = {module._stream(name, step) for name in ("dropout", "augmentation") for step in (0, 1)}
    assert len(seeds) == 4
    assert np.all([0 <= seed < 2**63 for seed in seeds])
