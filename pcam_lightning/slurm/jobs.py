"""States of the jobs of a sweep, as Slurm's queue and the run folders tell them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pcam_lightning.errors import one_line, printable
from pcam_lightning.runs import Run, find_runs
from pcam_lightning.runs.files import RunFileError, read_end, read_json
from pcam_lightning.runs.process import process_mark
from pcam_lightning.runs.run import is_run_folder
from pcam_lightning.slurm import queue
from pcam_lightning.sweeps.jobs import FAILURES, JobState, job_of_run, recorded_state

JOB_ID = re.compile(r"[0-9]{1,18}(_[0-9]{1,9})?")
"""submitit's id of a process, a Slurm job, or a task of a Slurm array."""

# A job in any other state of Slurm has left the queue.
QUEUED = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT"}
RUNNING = {"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "RESIZING", "STAGE_OUT"}


Queue = Callable[[Sequence[str]], dict[str, str] | None]
"""A function like `queue.states`: job ids in, their states in Slurm's queue out."""


def job_states(folder: Path | str, ask: Queue | None = None) -> list[JobState]:
    """Return the jobs in a sweep's `sweep.json`, or without this file the runs below the folder.

    Args:
        folder: folder of the sweep.
        ask: returns the states in Slurm's queue; `queue.states` by default.

    Raises:
        RunFileError: the folder does not exist, or its sweep.json is damaged or names a path
            outside the folder.
    """
    sweep = Path(folder)
    if not (sweep / "sweep.json").is_file():
        return [job_of_run(sweep, number, run) for number, run in enumerate(find_runs(sweep))]
    submitted, jobs = _read_sweep(sweep)
    # Slurm first: a job that ends afterwards has recorded its state when its folder is read.
    ids = [job["job_id"] for job in jobs if job["job_id"]]
    ask = ask or queue.states
    queued = ask(ids) if submitted.get("executor") == "slurm" else None
    return [_of_job(sweep, job, submitted.get("executor"), queued) for job in jobs]


def _of_job(
    sweep: Path, job: dict[str, Any], executor: str | None, queued: dict[str, str] | None
) -> JobState:
    folder, log, job_id = job["folder"], job["log"], job["job_id"]
    state, error = recorded_state(Run(folder)) if is_run_folder(folder) else (None, None)
    in_queue = (queued or {}).get(job_id)
    if state in ("failed", "damaged") and in_queue in QUEUED:  # requeued
        state, error = "queued", None
    elif state not in ("finished", "failed", "damaged"):
        if queued is not None:
            # The status of a job that died with its node stays `running` forever.
            state = "queued" if in_queue in QUEUED else "running" if in_queue in RUNNING else "lost"
        elif executor == "slurm":
            # The status may be outdated: the job may be queued again, or gone.
            state, error = "unknown", queue.NO_ANSWER
        elif executor == "local":
            state = _local_state(state, job_id)
        else:
            state = state or "unknown"
    if state in FAILURES and error is None:
        error = last_line(log)
    overrides = tuple(map(printable, job["overrides"]))
    return JobState(job["number"], overrides, state, error, log, folder, sweep, job_id)


def _local_state(state: str | None, job_id: str | None) -> str:
    if state in (None, "preempted", "killed"):
        # A local job's id is the id of its controller process, which may start the run again.
        if job_id and job_id.isdecimal() and process_mark(int(job_id)):
            return "queued"
        return state if state == "preempted" else "lost"
    return state


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
    """Return the last line that is not blank, from the last `size` bytes of a log."""
    try:
        text = b"" if log is None else read_end(log, size)
    except RunFileError:
        return None
    lines: Sequence[str] = text.decode(errors="replace").splitlines()
    return next((one_line(line) for line in reversed(lines) if line.strip()), None)
