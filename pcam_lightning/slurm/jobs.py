"""How the jobs of a sweep stand."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pcam_lightning.errors import one_line, printable
from pcam_lightning.runs import Run, find_runs
from pcam_lightning.runs.files import MissingRunFileError, RunFileError, read_end, read_json
from pcam_lightning.runs.process import process_mark
from pcam_lightning.runs.run import is_run_folder
from pcam_lightning.slurm import queue

FAILURES = ("failed", "lost", "damaged")
STATES = ("finished", *FAILURES, "running", "queued", "preempted", "killed", "unknown")

# Slurm has more words; what is neither of these has left the queue.
QUEUED = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT"}
JOB_ID = re.compile(r"[0-9]{1,18}(_[0-9]{1,9})?")
"""As submitit gives them: of a process, a job, or a task of an array."""
RUNNING = {"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "RESIZING", "STAGE_OUT"}


@dataclass(frozen=True)
class JobState:
    """One job of a sweep.

    Attributes:
        number: in its sweep, from 0.
        overrides: of the job, such as `seed=1`.
        state: `finished`; `failed`; `lost`: it left the queue, or its process is gone, and it did
            not say how it ended; `damaged`: a file of its folder cannot be read; `running`;
            `queued`; where there is no queue, `preempted` or `killed`; `unknown`: Slurm does not
            answer, or the run has no status.
        error: the last line of what went wrong, None where nothing did.
        log: of the job's process, None where it has none of its own.
        folder: of the run; it may not be there yet.
        sweep: the folder it was found in.
        job_id: Slurm's.
    """

    number: int
    overrides: tuple[str, ...]
    state: str
    error: str | None
    log: Path | None
    folder: Path
    sweep: Path
    job_id: str | None = None

    @property
    def run(self) -> Run | None:
        """The run, None where it has not begun."""
        return Run(self.folder) if is_run_folder(self.folder) else None

    @property
    def has_ended(self) -> bool:
        """Whether nothing more is to be expected of it."""
        return self.state not in ("running", "queued", "unknown")


Queue = Callable[[Sequence[str]], dict[str, str] | None]
"""Returns the states of Slurm jobs by their ids, as `queue.states` does."""


def job_states(folder: Path | str, ask: Queue | None = None) -> list[JobState]:
    """The jobs of a sweep: those of its `sweep.json`, else the runs in and below the folder.

    Slurm's queue is asked at once, or through `ask`.

    Raises:
        RunFileError: no such folder, or a sweep.json that is damaged or points out of it.
    """
    sweep = Path(folder)
    if not (sweep / "sweep.json").is_file():
        return [_of_run(sweep, number, run) for number, run in enumerate(find_runs(sweep))]
    submitted, jobs = _read_sweep(sweep)
    # Asked first: a job that ends in between has left its state by the time its folder is read.
    ids = [job["job_id"] for job in jobs if job["job_id"]]
    ask = ask or queue.states
    queued = ask(ids) if submitted.get("executor") == "slurm" else None
    return [_of_job(sweep, job, submitted.get("executor"), queued) for job in jobs]


def titles(jobs: Sequence[JobState]) -> list[str]:
    """What tells jobs apart: the overrides that not all of them have; all, of a single job."""
    common = set.intersection(*(set(job.overrides) for job in jobs)) if len(jobs) > 1 else set()
    return [one_line(" ".join(o for o in job.overrides if o not in common)) for job in jobs]


def count_states(states: Iterable[str]) -> str:
    """In words, such as `3 finished, 1 lost`."""
    counts = Counter(states)
    return ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])


def _of_run(sweep: Path, number: int, run: Run) -> JobState:
    state, error = _state(run)
    try:
        overrides = tuple(map(printable, run.overrides))
    except RunFileError:
        overrides = ()
    # Nothing will start it again.
    state = "lost" if state == "killed" else state
    return JobState(number, overrides, state, error, None, run.path, sweep)


def _of_job(
    sweep: Path, job: dict[str, Any], executor: str | None, queued: dict[str, str] | None
) -> JobState:
    folder, log, job_id = job["folder"], job["log"], job["job_id"]
    state, error = _state(Run(folder)) if is_run_folder(folder) else (None, None)
    word = (queued or {}).get(job_id)
    if state in ("failed", "damaged") and word in QUEUED:  # and starts once more
        state, error = "queued", None
    elif state not in ("finished", "failed", "damaged"):
        if queued is not None:
            # A job that was killed with its node says `running` for ever.
            state = "queued" if word in QUEUED else "running" if word in RUNNING else "lost"
        elif executor == "slurm":
            # What the run says may have been its last word: it may be queued again, or gone.
            state, error = "unknown", queue.NO_ANSWER
        elif executor == "local":
            state = _local(state, job_id)
        else:
            state = state or "unknown"
    if state in FAILURES and error is None:
        error = last_line(log)
    overrides = tuple(map(printable, job["overrides"]))
    return JobState(job["number"], overrides, state, error, log, folder, sweep, job_id)


def _local(state: str | None, job_id: str | None) -> str:
    if state in (None, "preempted", "killed"):
        # The id of a local job is that of a process, which may start the run once more.
        if job_id and job_id.isdecimal() and process_mark(int(job_id)):
            return "queued"
        return state if state == "preempted" else "lost"
    return state


def _state(run: Run) -> tuple[str, str | None]:
    """What a run says of itself, and its error; `damaged` where one of its files cannot be read."""
    try:
        state = run.state
        for name in ("manifest", "summary", "overrides"):
            try:
                getattr(run, name)
            except MissingRunFileError:
                if state == "finished" and name == "summary":
                    raise  # a result that is not there is none
        error = run.status.get("error") if state == "failed" else None
    except RunFileError as damaged:
        return "damaged", one_line(damaged)
    text = error.get("text") if isinstance(error, dict) else error
    return state, None if text is None else one_line(text)


def _read_sweep(sweep: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    path = sweep / "sweep.json"
    submitted = read_json(path)
    jobs = submitted.get("jobs")
    if not isinstance(jobs, list):
        raise RunFileError(f"{path}: jobs is missing, expected a list of jobs")
    return submitted, [_read_job(path, place, job) for place, job in enumerate(jobs)]


def _read_job(path: Path, place: int, job: Any) -> dict[str, Any]:
    where = f"{path}: jobs.{place}"
    if not isinstance(job, dict):
        raise RunFileError(f"{where} is a {type(job).__name__}, expected an object")
    number, overrides, job_id = job.get("number", place), job.get("overrides"), job.get("job_id")
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < 2**31:
        raise RunFileError(f"{where}.number={number!r}: expected a job's number")
    if not _are_words(overrides):
        raise RunFileError(f"{where}.overrides={overrides!r}: expected a list of KEY=VALUE")
    if job_id is not None and not JOB_ID.fullmatch(str(job_id)):
        raise RunFileError(f"{where}.job_id={job_id!r}: expected one such as '13' or '12_0'")
    return {
        "number": number,
        "overrides": overrides,
        "job_id": None if job_id is None else str(job_id),
        "folder": _inside(path.parent, job.get("folder"), f"{where}.folder"),
        "log": _inside(path.parent, job["log"], f"{where}.log") if job.get("log") else None,
    }


def _are_words(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(word, str) for word in value)


def _inside(sweep: Path, name: Any, where: str) -> Path:
    if isinstance(name, str) and name and "\0" not in name:
        path = sweep / name.encode("utf-8", "replace").decode()
        if path.resolve().is_relative_to(sweep.resolve()):
            return path
    raise RunFileError(f"{where}={name!r}: expected a path inside {sweep}")


def last_line(log: Path | None, size: int = 1 << 16) -> str | None:
    """The last line of a log that says something, from its last `size` bytes."""
    try:
        text = b"" if log is None else read_end(log, size)
    except RunFileError:
        return None
    lines: Sequence[str] = text.decode(errors="replace").splitlines()
    return next((one_line(line) for line in reversed(lines) if line.strip()), None)
