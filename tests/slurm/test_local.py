"""Local sweeps, whose concurrent jobs are limited."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import submitit

from pcam_lightning.slurm import local


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({}, 8),
        ({"array_parallelism": None, "tasks_per_node": 1, "cpus_per_task": None}, 8),
        ({"array_parallelism": 3}, 3),
        ({"array_parallelism": 30}, 30),
        ({"tasks_per_node": 2}, 4),
        ({"tasks_per_node": 2, "cpus_per_task": 3}, 1),
        ({"cpus_per_task": 64}, 1),
    ],
)
def test_the_number_of_cores_limits_the_jobs(monkeypatch, parameters, expected: int) -> None:
    monkeypatch.setattr(local, "cores", lambda: 8)
    assert local.parallelism(parameters) == expected


def executor(folder: Path, count: int) -> Any:
    made = submitit.AutoExecutor(cluster="local", folder=f"{folder}/jobs of it/%j")
    setup = [local.waiting_setup(f"{folder}/jobs of it/%j", count)]
    made.update_parameters(timeout_min=5, local_setup=setup)
    return made


def test_jobs_wait_for_a_slot(tmp_path: Path) -> None:
    def job(folder: str) -> int:
        running = os.path.join(folder, "running")
        os.close(os.open(running, os.O_CREAT | os.O_EXCL))  # fails if another job is running
        time.sleep(0.2)
        os.unlink(running)
        return os.getsid(0)

    jobs = executor(tmp_path, count=1).map_array(job, [str(tmp_path)] * 3)
    sessions = [each.result() for each in jobs]
    assert len({os.getsid(0), *sessions}) == 4  # Ctrl-C does not reach them
    assert sorted(int(each.job_id) for each in jobs) == sorted(sessions)


@pytest.fixture(params=[signal.default_int_handler, signal.SIG_IGN], ids=["handled", "ignored"])
def interrupts(request: pytest.FixtureRequest) -> Iterator[None]:
    """SIGINT is handled or, as in the background of a shell script, ignored."""
    before = signal.signal(signal.SIGINT, request.param)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interrupts")
def test_a_killed_job_frees_its_slot(tmp_path: Path) -> None:
    def job(folder: str) -> str:
        path = os.path.join(folder, "first")
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return "second"
        time.sleep(600)
        return "first"

    jobs = executor(tmp_path, count=1).map_array(job, [str(tmp_path)] * 2)
    deadline = time.monotonic() + 120
    while not (tmp_path / "first").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    (first,) = [each for each in jobs if each.paths.stdout.exists()]
    (second,) = [each for each in jobs if each is not first]
    first.cancel()
    assert second.result() == "second"
