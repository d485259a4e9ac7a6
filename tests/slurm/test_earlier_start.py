"""Jobs that a second start of a sweep submits, and those that it leaves alone."""

import os
from collections.abc import Collection
from pathlib import Path

import pytest
from sweep_files import write_run, write_sweep

from pcam_lightning.errors import InputError
from pcam_lightning.slurm import jobs, queue
from pcam_lightning.slurm.earlier_start import EarlierStart
from pcam_lightning.slurm.ends import JobEnd
from pcam_lightning.slurm.queue import QueuedJob
from pcam_lightning.slurm.submission import PlannedJob
from pcam_lightning.sweeps.jobs import STATES, JobState


def start_with(sweep: Path, *states: str) -> EarlierStart:
    return EarlierStart(
        sweep,
        {
            n: JobState(n, (f"seed={n}",), state, None, None, sweep / str(n), sweep, f"12_{n}")
            for n, state in enumerate(states)
        },
    )


def planned(sweep: Path, *overrides: str, number: int = 0) -> PlannedJob:
    return PlannedJob(number, overrides, lambda _: sweep / str(number), ())


# The states that run again: all without a result by default, else the chosen ones.
@pytest.mark.parametrize(
    ("retry", "again"),
    [
        (None, set(STATES) - {"finished", "running", "queued", "unknown"}),
        (["failed"], {"failed"}),
        (["out_of_memory", "missing"], {"out_of_memory", "missing"}),
        (["finished", "running"], set()),
    ],
)
def test_jobs_that_run_again(tmp_path: Path, retry: Collection[str] | None, again: set) -> None:
    start = start_with(tmp_path, *STATES)
    found = {state for n, state in enumerate(STATES) if start.leaves_to_run(n, retry)}
    assert found == again
    new = len(STATES)  # a job that the earlier start does not know is missing
    assert start.leaves_to_run(new, retry) is (retry is None or "missing" in retry)


def test_folders_in_use_are_not_checked(tmp_path: Path) -> None:
    """The checks before a submission would find that a living process writes to its folder."""
    start = start_with(tmp_path, "finished", "running", "queued", "failed", "time_limit")
    assert start.taken_folders() == {tmp_path / "1", tmp_path / "2"}
    assert start.taken_folders(["failed"]) == {tmp_path / name for name in "124"}


# Overrides of job 0 in the second start, after seed=0; a search's job has none before it begins.
@pytest.mark.parametrize(
    ("overrides", "is_same"),
    [(["seed=0"], True), ([], True), (["seed=1"], False), (["seed=0", "model=mlp"], False)],
)
def test_a_job_keeps_its_number(tmp_path: Path, overrides: list[str], is_same: bool) -> None:
    start = start_with(tmp_path, "failed")
    start.check_same([planned(tmp_path, "seed=9", number=7)])
    if is_same:
        return start.check_same([planned(tmp_path, *overrides)])
    with pytest.raises(InputError) as caught:
        start.check_same([planned(tmp_path, *overrides)])
    message = str(caught.value)
    assert message.startswith(f"hydra.sweep.dir={tmp_path}: job 0")
    assert "seed=0" in message and " ".join(overrides) in message and "\n" not in message


def test_no_earlier_start(tmp_path: Path) -> None:
    start = EarlierStart.of(tmp_path / "absent")
    assert start.jobs == {} and start.leaves_to_run(0) and start.taken_folders() == set()
    start.check_same([planned(tmp_path, "seed=0")])


def test_states_are_read_from_the_folder(tmp_path: Path, monkeypatch) -> None:
    queued = {"12_1": QueuedJob("PENDING")}
    monkeypatch.setattr(queue, "queued_jobs", lambda ids: queued)
    monkeypatch.setattr(jobs, "job_ends", lambda ids: {"12_2": JobEnd("TIMEOUT")})
    write_sweep(tmp_path, [{}, {}, {}, {"job_id": None}])
    write_run(tmp_path / "0", ["seed=0"])
    start = EarlierStart.of(tmp_path)
    states = ["finished", "queued", "time_limit", "missing"]
    assert [start.jobs[n].state for n in range(4)] == states
    assert [start.leaves_to_run(n) for n in range(5)] == [False, False, True, True, True]
    text = start.describe([0, 1])
    assert "1 finished" in text and "1 queued" in text


def test_nothing_is_submitted_while_slurm_does_not_answer(tmp_path: Path, monkeypatch) -> None:
    """A job that may still run must not run twice."""
    monkeypatch.setenv("PATH", os.fspath(tmp_path))
    write_sweep(tmp_path / "sweep", [{}, {}])
    with pytest.raises(InputError) as caught:
        EarlierStart.of(tmp_path / "sweep")
    assert str(caught.value).startswith(f"hydra.sweep.dir={tmp_path / 'sweep'}: ")
    assert queue.NO_ANSWER in str(caught.value)
