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

pytestmark = [pytest.mark.usefixtures("slurm"), pytest.mark.slow]


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    """Make a folder to submit from, with the data and outputs/."""
    for seed, (split, rows) in enumerate(zip(SPLITS, (192, 64, 64), strict=True)):
        write_split(tmp_path / "pcam", split, *random_split(rows, seed))
    (tmp_path / "outputs").mkdir()
    return tmp_path


def sbatch(folder: Path, script: str, *arguments: str, options: tuple[str, ...] = CPU) -> str:
    """Submit a training of a small network, and return the job's id."""
    network = ["data.root=pcam", "data.batch_size=16", "model=cnn", "model.channels=[4,8]"]
    training = ["trainer=cpu", "trainer.max_epochs=8", "logger=csv"]
    training += ["callbacks.last_checkpoint.every_minutes=0"]
    run = [SCRIPTS / script, *network, *training, *arguments]
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
    """Return one of Slurm's facts about a job, such as its JobState."""
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
    """Wait for a job's success, and return its run."""
    wait_for(lambda: fact(job, "JobState") not in ("PENDING", "RUNNING", "COMPLETING", "REQUEUED"))
    log = (folder / "outputs" / f"pcam_train_{job}.log").read_text()
    assert (fact(job, "JobState"), fact(job, "ExitCode")) == ("COMPLETED", "0:0"), log
    return Run(folder / "outputs" / "train" / "slurm" / job)


def stop(folder: Path, job: str) -> None:
    """Send the signal that Slurm sends before the time limit, once there is a checkpoint."""
    wait_for((folder / f"outputs/train/slurm/{job}/checkpoints/last.ckpt").exists)
    subprocess.run(["scancel", "--signal=USR2", job], check=True)


def test_stopped_jobs_are_requeued_alone_with_the_same_result(workplace: Path) -> None:
    array = sbatch(workplace, "sweep.sbatch", options=("--array=3,4", *CPU))
    job = sbatch(workplace, "train.sbatch", "seed=3")
    stop(workplace, f"{array}_4")
    stop(workplace, job)
    runs = [finished(workplace, name) for name in (f"{array}_3", f"{array}_4", job)]
    assert [run.status["attempt"] for run in runs] == [1, 2, 2]
    whole, other, stopped = (run.summary for run in runs)
    assert whole["weights_digest"] == stopped["weights_digest"] != other["weights_digest"]
    assert runs[2].manifest["slurm"]["partition"] == "thin_course"


def test_bad_input_fails_the_job(workplace: Path) -> None:
    job = sbatch(workplace, "train.sbatch", "optimizer.lrr=1")
    wait_for(lambda: fact(job, "JobState") == "FAILED")
    assert fact(job, "ExitCode") == "2:0"
    assert "no such key" in (workplace / "outputs" / f"pcam_train_{job}.log").read_text()
