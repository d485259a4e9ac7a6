"""The wait for a sweep's jobs, with a simulated clock, simulated jobs and a simulated Slurm."""

import os
import shutil
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra.core.utils import JobStatus
from sweep_files import write_run, write_sweep

from pcam_lightning.runs.process import process_mark
from pcam_lightning.slurm import ends as slurm_ends
from pcam_lightning.slurm import queue
from pcam_lightning.slurm import wait as waiting
from pcam_lightning.slurm import watch as watching
from pcam_lightning.slurm.ends import JobEnd
from pcam_lightning.slurm.submission import PlannedJob

RUNNING = "7_1|RUNNING|None|2026-11-29T05:00:00|thin1"


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
    for module in (watching, waiting):
        monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def slurm(monkeypatch: pytest.MonkeyPatch, clock: Clock):
    """Return a function that sets squeue's output at each time (None: no answer).

    It returns the times of the queries. The state of jobs that have left the queue is `ends`.
    """

    def answer(squeue: Callable[[float], str | None], **ends: str) -> list[float]:
        asked: list[float] = []

        def ask(*command: str) -> str | None:
            assert command[0] == "squeue"
            asked.append(clock.now)
            return squeue(clock.now)

        def job_ends(ids: Sequence[str]) -> dict[str, JobEnd]:
            return {job: JobEnd(ends[f"job_{job}"]) for job in ids if f"job_{job}" in ends}

        monkeypatch.setattr(queue, "ask", ask)
        monkeypatch.setattr(slurm_ends, "job_ends", job_ends)
        return asked

    return answer


def finish(sweep: Path, number: int) -> None:
    """Finish a job: its run, and then its command."""
    write_run(sweep / str(number), [f"seed={number}"])
    folder = sweep / ".submitit" / f"7_{number}"
    folder.mkdir(parents=True)
    (folder / f"7_{number}_0_result.pkl").touch()


def plan(sweep: Path, count: int) -> list[PlannedJob]:
    return [PlannedJob(n, [f"seed={n}"], lambda _, n=n: sweep / str(n), ()) for n in range(count)]


def nothing_to_submit() -> Any:
    return SimpleNamespace(left=[], submitted=0, cost=None, cluster="slurm")


@pytest.fixture
def sweep(tmp_path: Path, slurm, clock: Clock, capsys):
    """Return a function that waits for jobs 7_0, which has finished, and 7_1.

    Its arguments are those of `slurm`, and `done`, the time at which 7_1 finishes. It returns the
    status of 7_1, the times of the queries and the output.
    """

    def wait(squeue: Callable[[float], str | None], done: float | None = None, **ends: str):
        asked = slurm(squeue, **ends)
        write_sweep(tmp_path, [{"job_id": f"7_{number}"} for number in range(2)])
        finish(tmp_path, 0)
        if done is not None:
            clock.at.append((done, lambda: finish(tmp_path, 1)))
        returns = waiting.wait(tmp_path, plan(tmp_path, 2), nothing_to_submit())
        assert [each.overrides for each in returns] == [["seed=0"], ["seed=1"]]
        assert returns[0].status == JobStatus.COMPLETED
        return returns[1].status, asked, capsys.readouterr().out.splitlines()

    return wait


def assert_polite(asked: list[float]) -> None:
    """Assert that at least 30 seconds pass between queries, and 2 minutes if nothing changes."""
    gaps = [after - before for before, after in pairwise(asked)]
    assert all(gap >= 30 for gap in gaps)
    assert len(gaps) < 4 or max(gaps) >= 120


def test_a_missing_answer_is_reported_once(sweep) -> None:
    status, asked, lines = sweep(lambda now: None if 20 < now < 900 else RUNNING, done=2000)
    assert status == JobStatus.COMPLETED
    assert_polite(asked)
    assert len(asked) < 25
    assert [line for line in lines if "Slurm" in line and "#" not in line] == [
        "Slurm does not answer; waiting",
        "Slurm answers again",
    ]
    assert not any("failed" in line or "lost" in line for line in lines)


def test_a_result_counts_though_slurm_never_answers(sweep, clock: Clock) -> None:
    status, asked, _ = sweep(lambda now: None, done=300)
    assert status == JobStatus.COMPLETED and clock.now <= 301
    assert_polite(asked)


def test_a_job_that_left_the_queue_without_a_result_has_failed(sweep, clock: Clock) -> None:
    status, _, lines = sweep(lambda now: RUNNING if now < 100 else "")
    assert status == JobStatus.FAILED and 100 < clock.now < 500
    assert lines[-1].startswith("#1 seed=1: cancelled")


def test_a_cause_that_slurm_knows_needs_no_second_answer(sweep, clock: Clock) -> None:
    ends = {"job_7_1": "TIMEOUT"}
    status, _, lines = sweep(lambda now: RUNNING if now < 100 else "", **ends)
    assert status == JobStatus.FAILED and 100 < clock.now <= 220
    assert lines[-1].startswith("#1 seed=1: time_limit") and "timeout_min" in lines[-1]


def test_a_job_has_not_ended_if_one_answer_lacks_it(sweep) -> None:
    lacking = [""]

    def squeue(now: float) -> str | None:
        if now < 150:
            return RUNNING
        return lacking.pop() if lacking else None if now < 700 else "7_1|PENDING|Priority|N/A|"

    status, asked, lines = sweep(squeue, done=2000)
    assert_polite(asked)
    assert status == JobStatus.COMPLETED
    assert "#1 seed=1: queued, job 7_1 (Priority)" in lines


def test_each_state_is_printed_once_with_its_place(sweep) -> None:
    def squeue(now: float) -> str:
        return "7_1|PENDING|Resources|2026-11-29T05:00:00|" if now < 100 else RUNNING

    _, _, lines = sweep(squeue, done=300)
    shown = [line for line in lines if line.startswith("#1")]
    assert len(shown) == 3
    assert "Resources" in shown[0] and "2026-11-29T05:00:00" in shown[0]
    assert "running" in shown[1] and "thin1" in shown[1]
    assert shown[2].endswith("finished")


def test_ctrl_c_leaves_the_jobs_and_says_how_to_stop_them(sweep, clock: Clock, capsys) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    clock.at.append((50, interrupt))
    with pytest.raises(SystemExit) as stop:
        sweep(lambda now: RUNNING)
    assert stop.value.code == 130
    last = capsys.readouterr().out.splitlines()[-1]
    assert "cancel=true" in last and "pcam_lightning.collect runs=" in last


def test_jobs_are_submitted_while_others_run(tmp_path: Path, slurm, clock: Clock) -> None:
    """Slurm accepts one of three jobs at a time; job 2 failed in an earlier start."""
    done: set[int] = set()
    write_run(tmp_path / "2", ["seed=2"], state="failed", error="e")

    class OneByOne:
        cost, cluster, submitted = "one core-hour", "slurm", 0

        def __init__(self) -> None:
            self.left = plan(tmp_path, 3)

        def submit_next(self, active: int, queued: int) -> None:
            assert 0 <= active <= 1
            if active:
                return
            job, *self.left = self.left
            self.submitted += 1
            records = [
                {"job_id": f"7_{n}", "submitted": "2026-01-02T00:00:00+00:00"}
                if n <= job.number
                else {"job_id": None, "submitted": None}
                for n in range(3)
            ]
            pid = os.getpid()
            own = {"host": os.uname().nodename, "pid": pid, "process": process_mark(pid)}
            write_sweep(tmp_path, records, submitter=own)
            clock.at.append((clock.now + 50, lambda: end(job.number)))

    def end(number: int) -> None:
        done.add(number)
        if number == 2:
            shutil.rmtree(tmp_path / "2")
        finish(tmp_path, number)

    slurm(lambda now: f"7_{len(done)}|RUNNING|None|N/A|thin1")
    returns = waiting.wait(tmp_path, plan(tmp_path, 3), OneByOne())  # type: ignore[arg-type]
    assert done == {0, 1, 2}
    assert [each.status for each in returns] == [JobStatus.COMPLETED] * 3


def test_one_query_answers_for_all_jobs(clock: Clock, monkeypatch) -> None:
    asked = []
    answer = f"{RUNNING}\n8_0|PENDING|Priority|N/A|"
    monkeypatch.setattr(queue, "ask", lambda *_: asked.append(1) or answer)
    watch = watching.Watch()
    found = watch.queued_jobs(["7_1", "7_0"])
    assert found and {job: each.state for job, each in found.items()} == {"7_1": "RUNNING"}
    assert list(watch.queued_jobs(["8_0"]) or ()) == ["8_0"]
    assert watch.queued_jobs([]) == {}
    assert (len(asked), watch.answers, watch.count) == (1, 1, 2)


def test_ends_are_asked_for_once_an_answer_and_new_jobs_wait(clock: Clock, monkeypatch) -> None:
    """A job that is submitted after the last answer is not in it, and has not ended."""
    asked: list[list[str]] = []
    monkeypatch.setattr(queue, "ask", lambda *_: RUNNING)
    monkeypatch.setattr(
        slurm_ends, "job_ends", lambda ids: asked.append([*ids]) or {"7_0": JobEnd("FAILED")}
    )
    watch = watching.Watch()
    for _ in range(29):
        assert {*(watch.queued_jobs(["7_0", "7_1"]) or {})} == {"7_1"}
        assert watch.job_ends(["7_0"]) == {"7_0": JobEnd("FAILED")}
        assert watch.queued_jobs(["8_0"]) == {"8_0": queue.QueuedJob("PENDING")}
        clock.sleep(1)
    assert asked == [["7_0"]]
    clock.sleep(1)
    assert watch.queued_jobs(["7_0", "8_0"]) == {}
    watch.job_ends(["7_0", "8_0"])
    assert asked == [["7_0"], ["7_0", "8_0"]]
