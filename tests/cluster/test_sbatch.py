"""The plain job scripts on a real Slurm."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from pcam_files import SPLITS, random_split, write_split

from pcam_lightning.runs import Run

SCRIPTS = Path(__file__).parents[2] / "scripts"
CPU = ("--partition=thin_course", "--gpus-per-node=0", "--cpus-per-task=1")

pytestmark = pytest.mark.usefixtures("slurm")


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    """A folder to submit from: the data, and outputs/."""
    for seed, (split, rows) in enumerate(zip(SPLITS, (192, 64, 64), strict=True)):
        write_split(tmp_path / "pcam", split, *random_split(rows, seed))
    (tmp_path / "outputs").mkdir()
    return tmp_path


def sbatch(folder: Path, script: str, *arguments: str, options: tuple[str, ...] = CPU) -> str:
    """Submit a training of a small network, and return the job's id."""
    network = ["data.root=pcam", "data.batch_size=16", "model=cnn", "model.channels=[4,8]"]
    training = ["trainer=cpu", "trainer.max_epochs=20", "callbacks.early_stopping.patience=20"]
    run = [SCRIPTS / script, *network, *training, "logger=csv", *arguments]
    done = subprocess.run(
        ["sbatch", "--parsable", *options, *run],
        cwd=folder,
        env=os.environ | {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def fact(job: str, key: str) -> str:
    """One word that Slurm knows of a job, such as its JobState."""
    shown = subprocess.run(
        ["scontrol", "-o", "show", "job", job], stdout=subprocess.PIPE, text=True, check=True
    )
    return next(w.split("=")[1] for w in shown.stdout.split() if w.startswith(f"{key}="))


def wait_for(condition: Callable[[], bool], seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def finished(folder: Path, job: str) -> Run:
    """The run of a job, once that has ended as it should."""
    wait_for(lambda: fact(job, "JobState") not in ("PENDING", "RUNNING", "COMPLETING", "REQUEUED"))
    log = (folder / "outputs" / f"pcam_train_{job}.log").read_text()
    assert (fact(job, "JobState"), fact(job, "ExitCode")) == ("COMPLETED", "0:0"), log
    return Run(folder / "outputs" / "train" / "slurm" / job)


def test_a_job_that_is_asked_to_stop_is_requeued_and_ends_the_same(workplace: Path) -> None:
    saving = "callbacks.last_checkpoint.every_minutes=0"
    whole, stopped = (sbatch(workplace, "train.sbatch", saving) for _ in range(2))
    run = workplace / "outputs" / "train" / "slurm" / stopped
    wait_for((run / "checkpoints" / "last.ckpt").exists)
    subprocess.run(["scancel", "--signal=USR2", stopped], check=True)  # as before the time limit
    expected, actual = finished(workplace, whole), finished(workplace, stopped)
    assert fact(stopped, "Restarts") == "1"
    assert actual.status["attempt"] == 2
    assert actual.manifest["slurm"]["partition"] == "thin_course"
    assert actual.summary["weights_digest"] == expected.summary["weights_digest"]


def test_an_array_trains_each_seed_and_requeues_one_of_them_alone(workplace: Path) -> None:
    saving = "callbacks.last_checkpoint.every_minutes=0"
    array = sbatch(workplace, "sweep.sbatch", saving, options=("--array=3,4", *CPU))
    run = workplace / "outputs" / "train" / "slurm" / f"{array}_4"
    wait_for((run / "checkpoints" / "last.ckpt").exists)
    subprocess.run(["scancel", "--signal=USR2", f"{array}_4"], check=True)
    runs = {seed: finished(workplace, f"{array}_{seed}") for seed in (3, 4)}
    assert {seed: run.summary["seed"] for seed, run in runs.items()} == {3: 3, 4: 4}
    assert {seed: run.status["attempt"] for seed, run in runs.items()} == {3: 1, 4: 2}


def test_bad_input_fails_the_job(workplace: Path) -> None:
    job = sbatch(workplace, "train.sbatch", "optimizer.lrr=1")
    wait_for(lambda: fact(job, "JobState") == "FAILED")
    assert fact(job, "ExitCode") == "2:0"
    assert "no such key" in (workplace / "outputs" / f"pcam_train_{job}.log").read_text()
