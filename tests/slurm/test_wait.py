"""How a sweep waits: on a clock of its own, for jobs and a Slurm that behave as they are told."""

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
    """Time that passes only while somebody sleeps; `at` says what happens when."""

    def __init__(self) -> None:
        self.now = 0.0
        self.at: list[tuple[float, Callable[[], object]]] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        assert self.now < 10_000, "it waits for ever"
        for moment, happens in [each for each in self.at if each[0] <= self.now]:
            self.at.remove((moment, happens))
            happens()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (queue, waiting):
        monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock, capsys):
    """Wait for jobs 7_0 and 7_1, of which the first has a result from the start.

    `squeue` returns what Slurm prints at a moment, None for no answer; `done` is when the second
    has its result. Returns how the second ended, the moments Slurm was asked, and the output.
    """

    def job(number: int) -> Any:
        paths = SimpleNamespace(result_pickle=tmp_path / f"result_{number}")
        ended = ("success", None)
        return SimpleNamespace(
            job_id=f"7_{number}", paths=paths, _sub_jobs=[], _get_outcome_and_result=lambda: ended
        )

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
    """Slurm is asked once at a time, soon at first and then every half minute."""
    gaps = [after - before for before, after in pairwise(asked)]
    assert gaps[:5] == [1, 2, 4, 8, 16][: len(gaps)]
    assert all(gap >= 30 for gap in gaps[5:])


def test_no_answer_is_waited_for_and_said_once(sweep) -> None:
    status, asked, said = sweep(lambda now: None if 20 < now < 900 else "7_1 RUNNING", done=2000)
    assert status == JobStatus.COMPLETED
    assert_polite(asked)
    assert len(asked) < 75
    assert [line for line in said if "Slurm" in line] == [
        "Slurm does not answer; waiting",
        "Slurm answers again",
    ]
    assert not any("failed" in line for line in said)


def test_a_result_counts_though_slurm_never_answers(sweep, clock: Clock) -> None:
    status, asked, _ = sweep(lambda now: None, done=300)
    assert status == JobStatus.COMPLETED and clock.now <= 301
    assert_polite(asked)


def test_a_job_that_slurm_has_no_more_has_failed(sweep, clock: Clock) -> None:
    status, _, said = sweep(lambda now: "7_1 RUNNING" if now < 100 else "8_0 RUNNING")
    assert status == JobStatus.FAILED and 100 < clock.now < 200
    assert said[-1].startswith("#1 seed=1: failed")


def test_one_answer_without_a_job_is_not_its_end(sweep) -> None:
    def squeue(now: float) -> str | None:
        if now < 70:
            return "7_1 RUNNING"
        return "" if now < 100 else None if now < 500 else "7_1 PENDING"

    status, _, said = sweep(squeue, done=1000)
    assert status == JobStatus.COMPLETED
    assert "#1 seed=1: queued, job 7_1" in said


def test_of_two_waiting_commands_each_job_keeps_its_state(clock: Clock, monkeypatch) -> None:
    asked = []
    monkeypatch.setattr(queue, "ask", lambda *_: asked.append(1) or "7_0 RUNNING\n8_0 PENDING")
    watch = queue.Watch()
    assert watch.states(["7_0", "7_1"]) == {"7_0": "RUNNING"}
    assert watch.states(["8_0"]) == {"8_0": "PENDING"}
    assert watch.states([]) == {}
    assert len(asked) == 1
