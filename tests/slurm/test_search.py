"""A search whose runs are jobs of a real Slurm."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from slurm_sweeps import LIMIT, SMALL, jobs_of, start, wait_for

from pcam_lightning.runs import Run
from pcam_lightning.slurm.jobs import job_states

pytest.importorskip("optuna")
pytestmark = [pytest.mark.usefixtures("slurm"), pytest.mark.slow]

ROOT = Path(__file__).parents[2]
TRIALS = 5


def test_a_killed_search_loses_and_repeats_no_trial(pcam_root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "search"
    words = [*SMALL, "sweep=optuna", f"data.root={pcam_root}", f"hydra.sweep.dir={folder}"]
    words += ["hydra/launcher=submitit_slurm", "hydra.launcher.array_parallelism=1"]
    words += [f"hydra.sweeper.trials={TRIALS}", "hydra.sweeper.parallel=2", "trainer.max_epochs=2"]
    words += ["data.batch_size=choice(8,16)", "hydra.launcher.cpus_per_task=1"]
    words += ["+callbacks.slow._target_=job_callbacks.SlowSteps", "+callbacks.slow.seconds=10"]
    words += [f"+callbacks.slow.until={tmp_path / 'fast'}"]
    (tmp_path / "fast").touch()
    killed = start(*words)
    wait_for((folder / "1" / "summary.json").exists, killed)
    (tmp_path / "fast").unlink()  # the third run does not end before the search starts again
    wait_for((folder / "2" / "gradients.parquet").exists, killed)
    killed.kill()
    killed.communicate()
    earlier = {job["number"]: job["job_id"] for job in jobs_of(folder)}
    assert list(earlier) == [0, 1, 2, 3]
    assert Run(folder / "2").state == "running" and not (folder / "3" / "status.json").exists()

    again = start(*words)
    assert again.stdout is not None
    line = next(line for line in again.stdout if "waiting for jobs" in line)
    assert line == "waiting for jobs of an earlier start: trials 2, 3\n"
    (tmp_path / "fast").touch()
    out, err = again.communicate(timeout=LIMIT)
    assert again.returncode == 0, out + err
    jobs = {job["number"]: job["job_id"] for job in jobs_of(folder)}
    assert list(jobs) == list(range(TRIALS)) and jobs | earlier == jobs
    trials = pd.read_csv(folder / "study.csv")
    assert trials["trial"].tolist() == list(range(TRIALS))
    assert set(trials["state"]) == {"complete"}
    for trial, value in zip(trials["trial"], trials["value"], strict=True):
        run = Run(folder / str(trial))
        assert (run.state, run.status["attempt"]) == ("finished", 1)
        assert run.summary["val"]["metrics"]["auroc"]["value"] == value
    assert json.loads((folder / "study.json").read_text())["best"]["value"] == max(trials["value"])
    arrays = {job_id.partition("_")[0] for job_id in jobs.values()}
    listed = ["squeue", "--noheader", "--format=%i"]
    deadline = time.monotonic() + LIMIT
    # A job may complete for a moment after its result is written.
    while arrays & {*subprocess.run(listed, capture_output=True, text=True).stdout.split()}:
        assert time.monotonic() < deadline
        time.sleep(1)


def test_a_search_left_alone_runs_the_submitted_code_and_equals_an_attended_one(
    command, pcam_root: Path, tmp_path: Path
) -> None:
    """The clone is edited after the submission, and no process waits for the jobs."""
    clone, folder = tmp_path / "clone", tmp_path / "search"
    for name in ("pcam_lightning", "conf"):
        shutil.copytree(ROOT / name, clone / name, ignore=shutil.ignore_patterns("__pycache__"))
    words = [*SMALL, "sweep=optuna", f"data.root={pcam_root}", "trainer.max_epochs=1"]
    words += ["hydra.sweeper.trials=3", "hydra.sweeper.startup_trials=2"]
    words += ["data.batch_size=choice(8,16)"]
    launcher = [
        f"hydra.sweep.dir={folder}",
        "hydra/launcher=submitit_slurm",
        "hydra.launcher.detach=true",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "pcam_lightning.train", *words, *launcher],
        cwd=clone, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(clone), "SBATCH_EXPORT": "NONE"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    with (clone / "pcam_lightning" / "engine" / "module.py").open("a") as module:
        module.write("raise SystemExit('edited')\n")
    assert "collect: python -m pcam_lightning.collect" in done.stdout
    code, out, err = command(*words, f"hydra.sweep.dir={tmp_path / 'attended'}")  # meanwhile
    assert code == 0, out + err
    deadline = time.monotonic() + LIMIT
    while any(not job.has_ended for job in job_states(folder)):
        assert time.monotonic() < deadline
        time.sleep(5)
    assert [job.state for job in job_states(folder)] == ["finished"] * 3
    left, attended = (pd.read_csv(each / "study.csv") for each in (folder, tmp_path / "attended"))
    assert left.equals(attended) and set(left["state"]) == {"complete"}
    snapshots = [Run(folder / str(trial)).manifest["snapshot"] for trial in range(3)]
    assert len({each["digest"] for each in snapshots}) == 1
    assert all(str(folder) in each["folder"] for each in snapshots)
