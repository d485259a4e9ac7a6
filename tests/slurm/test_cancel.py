"""Cancellation of a sweep's own jobs, and of no job that a stranger's sweep.json names."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from sweep_files import write_sweep

from pcam_lightning.slurm.cancel import cancel
from pcam_lightning.slurm.jobs import job_states


def test_only_jobs_with_a_log_in_the_sweep_are_cancelled(slurm, tmp_path: Path) -> None:
    folder = tmp_path / "a sweep"
    places = (folder / ".submitit" / "job.log", tmp_path / "other.log")
    places[0].parent.mkdir(parents=True)
    ids = [
        subprocess.run(
            ["sbatch", "--parsable", "--hold", f"--output={place}", "--wrap=true"],
            capture_output=True, text=True, check=True,
        ).stdout.strip()
        for place in places
    ]  # fmt: skip
    write_sweep(folder, [{"job_id": job_id} for job_id in ids])
    assert [job.state for job in job_states(folder)] == ["queued", "queued"]
    try:
        assert [job.job_id for job in cancel(job_states(folder))] == ids[:1]
        assert [job.state for job in job_states(folder)] == ["cancelled", "queued"]
        assert not cancel(job_states(folder))
    finally:
        subprocess.run(["scancel", *ids], check=True)


def test_a_process_of_something_else_is_not_killed(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        folder = write_sweep(tmp_path, [{"job_id": str(other.pid)}], executor="local")
        assert [job.state for job in job_states(folder)] == ["queued"]
        assert not cancel(job_states(folder))
        assert other.poll() is None and os.getpgid(other.pid)
        other.kill()


@pytest.mark.parametrize("jobs", [[], [{"job_id": None}]])
def test_nothing_to_cancel(tmp_path: Path, jobs: list) -> None:
    folder = write_sweep(tmp_path, jobs, executor="local")
    assert not cancel(job_states(folder))
