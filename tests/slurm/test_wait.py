"""The wait for a sweep's jobs, with a simulated clock, simulated jobs and a simulated Slurm."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra.core.utils import JobStatus

from pcam_lightning.slurm import queue
from pcam_lightning.slurm import wait as waiting


class Clock:
    """A clock that advances only in `sleep`, and the events `at` certain times."""

    def __init__(self) -> None:
        self.now = 0.0
        self.at: list[tuple[float, Callable[[], object]]] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        assert self.now < 10_000, "it waits forever"
        for event in [each for each in self.at if each[0] <= self.now]:
            self.at.remove(event)
            event[1]()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (queue, waiting):
        monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock, capsys):
    """Return a function that waits for jobs 7_0, which has ended, and 7_1.

    Its arguments are `squeue`, from a time to Slurm's output (None: no answer), and `done`, the
    time at which 7_1 ends. It returns the status of 7_1, the times of the queries and the output.
    """

    def job(number: int) -> Any:
        paths = SimpleNamespace(result_pickle=tmp_path / f"result_{number}")
        job = SimpleNamespace(job_id=f"7_{number}", paths=paths, num_tasks=1)
        job.task, job.exception = lambda _: job, lambda: None
        return job

    def wait(squeue: Callable[[float], str | None], done: float | None = None):
        asked: list[float] = []

        def ask(*command: str) -> str | None:
            assert command[0] == "squeue"
            asked.append(clock.now)
            return squeue(clock.now)

        monkeypatch.setattr(queue, "ask", ask)
        (tmp_path / "result_0").touch()
        if done is not None:
            clock.at.append((done, (tmp_path / "result_1").touch))
        records = [
            {"number": n, "overrides": [f"seed={n}"], "folder": str(n), "log": f"{n}.err"}
            for n in range(2)
        ]
        returns = waiting.wait(tmp_path, records, [job(0), job(1)])
        assert returns[0].status == JobStatus.COMPLETED
        return returns[1].status, asked, capsys.readouterr().out.splitlines()

    return wait


def assert_polite(asked: list[float]) -> None:
    """Assert that the pauses between queries double, and then last at least 30 seconds."""
    gaps = [after - before for before, after in pairwise(asked)]
    assert gaps[:5] == [1, 2, 4, 8, 16][: len(gaps)]
    assert all(gap >= 30 for gap in gaps[5:])


def test_a_missing_answer_is_reported_once(sweep) -> None:
    status, asked, lines = sweep(lambda now: None if 20 < now < 900 else "7_1 RUNNING", done=2000)
    assert status == JobStatus.COMPLETED
    assert_polite(asked)
    assert len(asked) < 75
    assert [line for line in lines if "Slurm" in line] == [
        "Slurm does not answer; waiting",
        "Slurm answers again",
    ]
    assert not any("failed" in line for line in lines)


def test_a_result_counts_though_slurm_never_answers(sweep, clock: Clock) -> None:
    status, asked, _ = sweep(lambda now: None, done=300)
    assert status == JobStatus.COMPLETED and clock.now <= 301
    assert_polite(asked)


def test_a_job_that_left_the_queue_without_a_result_has_failed(sweep, clock: Clock) -> None:
    status, _, lines = sweep(lambda now: "7_1 RUNNING" if now < 100 else "8_0 RUNNING")
    assert status == JobStatus.FAILED and 100 < clock.now < 200
    assert lines[-1].startswith("#1 seed=1: failed")


def test_a_job_has_not_ended_if_one_answer_lacks_it(sweep) -> None:
    def squeue(now: float) -> str | None:
        if now < 70:
            return "7_1 RUNNING"
        return "" if now < 100 else None if now < 500 else "7_1 PENDING"

    status, _, lines = sweep(squeue, done=1000)
    assert status == JobStatus.COMPLETED
    assert "#1 seed=1: queued, job 7_1" in lines


def test_one_query_answers_for_all_jobs(clock: Clock, monkeypatch) -> None:
    asked = []
    monkeypatch.setattr(queue, "ask", lambda *_: asked.append(1) or "7_0 RUNNING\n8_0 PENDING")
    watch = queue.Watch()
    assert watch.states(["7_0", "7_1"]) == {"7_0": "RUNNING"}
    assert watch.states(["8_0"]) == {"8_0": "PENDING"}
    assert watch.states([]) == {}
    assert len(asked) == 1
