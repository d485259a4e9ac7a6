"""Submission within Slurm's limits, with an executor that stands in for submitit's."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from slurm_commands import Command, printing, stand_in

from pcam_lightning.errors import InputError
from pcam_lightning.slurm import limits
from pcam_lightning.slurm.jobs import job_states, read_sweep
from pcam_lightning.slurm.packed import PackedRuns
from pcam_lightning.slurm.submission import PlannedJob, Submission

REJECTED = (
    "sbatch: error: AssocMaxSubmitJobLimit\n"
    "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job submit "
    "limit, user's size and/or time limits)"
)
TOO_LARGE = "sbatch: error: Batch job submission failed: Invalid job array specification"
REQUEST: dict[str, Any] = {
    "nodes": 1, "tasks_per_node": 1, "cpus_per_task": 1, "timeout_min": 60,
}  # fmt: skip


class Executor:
    """An executor and a queue of at most `limit` jobs, in arrays of at most `largest` jobs.

    Attributes:
        queue: submitit's ids of the jobs in the queue.
        arrays: arguments of the jobs, by array.
        parallel: jobs of each array that may run at a time.
        calls: number of calls of sbatch.
    """

    def __init__(self, sweep: Path, limit: int = 10**6, largest: int = 10**6) -> None:
        self.folder, self.limit, self.largest = sweep / ".submitit", limit, largest
        self.queue: list[str] = []
        self.arrays: list[list[tuple[Any, ...]]] = []
        self.parallel: list[int] = []
        self.calls = 0
        self._parallel = 0

    def update_parameters(self, *, slurm_array_parallelism: int) -> None:
        self._parallel = slurm_array_parallelism

    def map_array(self, function: Callable[..., Any], *columns: Sequence[Any]) -> list[Any]:
        rows = list(zip(*columns, strict=True))
        self.calls += 1
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / f".submission_file_{self.calls}.sh").touch()
        folder = self.folder / f"pickle_{self.calls}"
        folder.mkdir()
        (folder / "task.pkl").touch()
        if len(rows) > self.largest or len(self.queue) + len(rows) > self.limit:
            raise RuntimeError(TOO_LARGE if len(rows) > self.largest else REJECTED)
        ids = [f"{self.calls}_{task}" for task in range(len(rows))]
        self.queue += ids
        self.arrays.append(rows)
        self.parallel.append(self._parallel)
        return [self.job(each) for each in ids]

    def job(self, job_id: str) -> Any:
        log = self.folder / job_id / f"{job_id}_0_log.err"
        return SimpleNamespace(job_id=job_id, paths=SimpleNamespace(stderr=log))

    @contextmanager
    def batch(self) -> Iterator[None]:
        self._batch: list[Any] = []
        yield
        made = self.map_array(lambda *_: None, *zip(*self._batch, strict=True))
        for job, real in zip(self._jobs, made, strict=True):
            vars(job).update(vars(real))

    def submit(self, function: PackedRuns, calls: Sequence[Any]) -> Any:
        if not self._batch:
            self._jobs: list[Any] = []
        self._batch.append((function, calls))
        self._jobs.append(SimpleNamespace())
        return self._jobs[-1]


@pytest.fixture(autouse=True)
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """A Slurm that does not tell its limits."""
    return stand_in(tmp_path / "bin", monkeypatch)


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    folder = tmp_path / "sweep"
    folder.mkdir()
    return folder


def submission(sweep: Path, executor: Executor, count: int, **parameters: Any) -> Submission:
    jobs = [
        PlannedJob(n, [f"seed={n}"], lambda job_id, n=n: sweep / f"{n}", (n, "state"))
        for n in range(count)
    ]
    given = REQUEST | parameters
    return Submission(sweep, "train", executor, "slurm", given, lambda *_: None, jobs)


def run_to_the_end(made: Submission, executor: Executor, per_step: int = 1) -> list[int]:
    """Submit all jobs while `per_step` jobs end at each look; return the lengths of the queue."""
    lengths = []
    made.submit_next(active=0, queued=0)
    for _ in range(10_000):
        lengths.append(len(executor.queue))
        if not made.left:
            return lengths
        del executor.queue[:per_step]
        made.submit_next(active=len(executor.queue), queued=len(executor.queue))
    raise AssertionError("some jobs are never submitted")


def submitted(executor: Executor) -> list[int]:
    return [row[0] for array in executor.arrays for row in array]


@pytest.mark.parametrize("limit", [1, 2, 7, 10, 100])
@pytest.mark.parametrize("is_known", [False, True])
def test_each_job_is_submitted_once_within_the_limit(
    slurm: Command, sweep: Path, limit: int, is_known: bool
) -> None:
    """A limit is told by the accounting, or known only from sbatch's refusal."""
    slurm("scontrol", printing("MaxArraySize            = 8"))
    if is_known:
        slurm("sacctmgr", printing(f"a|{limit}"))
    executor = Executor(sweep, limit, largest=8)
    lengths = run_to_the_end(submission(sweep, executor, 50, account="a"), executor)
    assert submitted(executor) == list(range(50))
    assert all(len(array) <= 8 for array in executor.arrays)
    assert max(lengths) <= limit
    assert executor.calls < 75
    if is_known:
        assert executor.calls == len(executor.arrays)  # no refusal


def test_a_full_queue_is_not_asked_at_each_look(sweep: Path) -> None:
    executor = Executor(sweep, limit=10)
    made = submission(sweep, executor, 100)
    made.submit_next(active=0, queued=0)
    for _ in range(10):  # fill it
        made.submit_next(active=len(executor.queue), queued=len(executor.queue))
    calls = executor.calls
    for _ in range(100):  # nothing ends
        made.submit_next(active=len(executor.queue), queued=len(executor.queue))
    assert len(executor.queue) == 10 and executor.calls == calls


def test_other_jobs_of_the_user_count(slurm: Command, sweep: Path) -> None:
    slurm("sacctmgr", printing("a|10"))
    executor = Executor(sweep, limit=10)
    made = submission(sweep, executor, 30)
    made.submit_next(active=0, queued=6)
    assert len(executor.queue) == 4
    executor.queue.clear()
    made.submit_next(active=0, queued=10)
    assert len(executor.queue) == 0 and len(made.left) == 26


def test_array_parallelism_holds_for_all_arrays_together(slurm: Command, sweep: Path) -> None:
    slurm("scontrol", printing("MaxArraySize = 4"))
    executor = Executor(sweep)
    made = submission(sweep, executor, 12, array_parallelism=6)
    made.submit_next(active=0, queued=0)
    made.submit_next(active=3, queued=3)
    assert executor.parallel == [6, 3]
    made.submit_next(active=4, queued=4)  # more than half of it still runs
    assert len(executor.arrays) == 2
    at_once = Executor(sweep / "other")
    submission(sweep / "other", at_once, 12, array_parallelism=6).submit_all()
    assert [len(array) for array in at_once.arrays] == [4, 4, 4]
    assert sum(at_once.parallel) <= 6


def test_sweep_json_lists_jobs_that_are_not_submitted_yet(sweep: Path) -> None:
    executor = Executor(sweep, limit=2)
    made = submission(sweep, executor, 4)
    made.submit_next(active=0, queued=0)
    content, jobs = read_sweep(sweep)
    assert (content["command"], content["executor"]) == ("train", "slurm")
    ids = [f"{executor.calls}_0", f"{executor.calls}_1", None, None]
    assert [job["job_id"] for job in jobs] == ids
    assert [job["number"] for job in jobs] == [0, 1, 2, 3]
    assert [job["overrides"] for job in jobs] == [[f"seed={n}"] for n in range(4)]
    assert [bool(job["submitted"]) for job in jobs] == [True, True, False, False]
    assert [job["log"] is not None for job in jobs] == [True, True, False, False]
    waiting = job_states(sweep, lambda ids: {}, lambda ids: {}, numbers={2, 3})
    assert [job.state for job in waiting] == ["queued", "queued"]  # this process will submit them


def test_jobs_of_an_earlier_start_stay_in_sweep_json(sweep: Path) -> None:
    submission(sweep, Executor(sweep), 3).submit_all()
    before = json.loads((sweep / "sweep.json").read_text())["jobs"]
    again = submission(sweep, Executor(sweep), 3)
    again.executor.calls = 40
    again.left = again.left[1:2]
    again.submit_all()
    after = json.loads((sweep / "sweep.json").read_text())["jobs"]
    assert [after[0], after[2]] == [before[0], before[2]]
    assert (before[1]["job_id"], after[1]["job_id"]) == ("1_1", "41_0")
    assert after[1]["submitted"] >= before[1]["submitted"]


@pytest.mark.parametrize("submit", ["submit_next", "submit_all"])
def test_a_rejection_leaves_nothing(sweep: Path, submit: str) -> None:
    """sbatch's own words are kept, and no file of a job that does not exist."""
    executor = Executor(sweep, limit=0)
    made = submission(sweep, executor, 5)
    with pytest.raises(InputError) as caught:
        made.submit_next(0, 0) if submit == "submit_next" else made.submit_all()
    assert "AssocMaxSubmitJobLimit" in str(caught.value) and "\n" not in str(caught.value)
    assert [path for path in sweep.rglob("*") if path != executor.folder] == []
    assert len(made.left) == 5


def test_another_rejection_is_not_tried_again(sweep: Path) -> None:
    executor = Executor(sweep, largest=2)
    with pytest.raises(InputError, match="Invalid job array specification"):
        submission(sweep, executor, 5).submit_next(0, 0)
    assert executor.calls == 1


def test_a_later_rejection_names_both_numbers(slurm: Command, sweep: Path) -> None:
    slurm("scontrol", printing("MaxArraySize = 2"))
    executor = Executor(sweep, limit=4)
    with pytest.raises(InputError) as caught:
        submission(sweep, executor, 7).submit_all()
    assert "4 jobs" in str(caught.value) and "3 are not" in str(caught.value)
    assert [job["job_id"] is None for job in read_sweep(sweep)[1]] == [False] * 4 + [True] * 3


def test_jobs_that_nobody_waits_for_must_all_be_accepted(slurm: Command, sweep: Path) -> None:
    slurm("sacctmgr", printing("a|4"))
    submission(sweep, Executor(sweep), 4).check_at_once()
    submission(sweep, Executor(sweep), 8, runs_per_job=2).check_at_once()
    for count, runs_per_job in ((5, 1), (9, 2)):
        with pytest.raises(InputError, match="detach"):
            submission(sweep, Executor(sweep), count, runs_per_job=runs_per_job).check_at_once()


def test_several_runs_share_a_job(slurm: Command, sweep: Path) -> None:
    """Limits count jobs; each run has its own log and its own row in sweep.json."""
    slurm("scontrol", printing("MaxArraySize = 2"))
    executor = Executor(sweep, limit=2)
    made = submission(sweep, executor, 7, runs_per_job=3)
    made.submit_next(active=0, queued=0)
    assert [len(calls) for array in executor.arrays for _, calls in array] == [3, 3]
    assert len(made.left) == 1
    jobs = read_sweep(sweep)[1]
    assert [job["job_id"] for job in jobs] == ["1_0"] * 3 + ["1_1"] * 3 + [None]
    logs = {job["log"] for job in jobs[:6]}
    assert len(logs) == 6 and {path.parent.name for path in logs} == {"1_0", "1_1"}
    made.submit_next(active=4, queued=2)
    assert len(executor.arrays) == 1
    executor.queue.clear()
    made.submit_next(active=0, queued=0)
    assert not made.left and read_sweep(sweep)[1][6]["job_id"] == f"{executor.calls}_0"


@pytest.mark.parametrize(
    ("config", "expected"),
    [("MaxArraySize            = 1001", 1001), ("SlurmctldPort = 1", None), (None, None)],
)
def test_the_largest_array(slurm: Command, config: str | None, expected: int | None) -> None:
    if config:
        slurm("scontrol", printing(f"Configuration data\n{config}"))
    assert limits.largest_array() == expected


# Rows of the accounting: account and limit. An empty limit is none.
@pytest.mark.parametrize(
    ("rows", "account", "expected"),
    [
        ("a|500\nb|20\nc|", "a", 500),
        ("a|500\nb|20\nc|", "c", None),
        ("a|500\nb|20\nc|", None, 20),
        ("a|", None, None),
        ("You are not running a supported accounting_storage plugin", None, None),
        (None, "a", None),
    ],
)
def test_the_jobs_that_a_user_may_queue(
    slurm: Command, rows: str | None, account: str | None, expected: int | None
) -> None:
    if rows:
        slurm("sacctmgr", printing(rows))
    assert limits.most_queued(account) == expected
