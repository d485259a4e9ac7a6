"""States of the jobs of a sweep, as Slurm's queue and the run folders tell them."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Container, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from pcam_lightning.errors import one_line, printable
from pcam_lightning.runs import Run, find_runs
from pcam_lightning.runs.files import RunFileError, read_json
from pcam_lightning.runs.process import process_mark
from pcam_lightning.runs.run import is_run_folder
from pcam_lightning.runs.status import SECONDS_OF_SILENCE, is_alive
from pcam_lightning.slurm import queue
from pcam_lightning.slurm.causes import cause_of_end, last_line
from pcam_lightning.slurm.ends import JobEnd, job_ends
from pcam_lightning.sweeps.jobs import FAILURES, JobState, job_of_run, recorded_state

JOB_ID = re.compile(r"[0-9]{1,18}(_[0-9]{1,9})?")
"""submitit's id of a process, a Slurm job, or a task of a Slurm array."""

Ask = Callable[[Sequence[str]], queue.Queue | None]
"""A function like `queue.queued_jobs`."""
LookUp = Callable[[Sequence[str]], dict[str, JobEnd]]
"""A function like `ends.job_ends`."""


def job_states(
    folder: Path | str,
    ask: Ask | None = None,
    look_up: LookUp | None = None,
    numbers: Container[int] | None = None,
) -> list[JobState]:
    """Return the jobs in a sweep's `sweep.json`, or without this file the runs below the folder.

    Args:
        folder: folder of the sweep.
        ask: returns the jobs in Slurm's queue; `queue.queued_jobs` by default.
        look_up: returns the ends of jobs that have left it; `ends.job_ends` by default.
        numbers: the jobs to return; None for all.

    Raises:
        RunFileError: the folder does not exist, or its sweep.json is damaged or names a path
            outside the folder.
    """
    sweep = Path(folder)
    if not (sweep / "sweep.json").is_file():
        return [job_of_run(sweep, number, run) for number, run in enumerate(find_runs(sweep))]
    submitted, jobs = read_sweep(sweep)
    jobs = [job for job in jobs if numbers is None or job["number"] in numbers]
    executor = submitted.get("executor")
    # Slurm first: a job that ends afterwards has recorded its state when its folder is read.
    ids = [job["job_id"] for job in jobs if job["job_id"]]
    queued = (ask or queue.queued_jobs)(ids) if executor == "slurm" else None
    recorded = [_recorded(job, executor) for job in jobs]
    gone = [
        job["job_id"]
        for job, (state, _) in zip(jobs, recorded, strict=True)
        if queued is not None and job["job_id"] and job["job_id"] not in queued
        if state not in ("finished", "damaged")
    ]
    ended = (look_up or job_ends)(gone) if gone else {}
    submits = _submits(sweep / "sweep.json", submitted.get("submitter"))
    return [
        _state(sweep, job, executor, own, queued, ended, submits)
        for job, own in zip(jobs, recorded, strict=True)
    ]


def _submits(path: Path, submitter: Any) -> bool:
    """Return whether the launcher that wrote a sweep.json lives, and may submit more jobs."""
    if not isinstance(submitter, dict):
        return False
    alive = is_alive(submitter)
    if alive is None:  # on another machine; it renews the file's time while jobs are left
        alive = time.time() - path.stat().st_mtime < SECONDS_OF_SILENCE
    return alive


def _recorded(job: dict[str, Any], executor: str | None) -> tuple[str | None, str | None]:
    """Return the state and error in a job's run folder; no state if an earlier job wrote them."""
    if not is_run_folder(job["folder"]):
        return None, None
    run = Run(job["folder"])
    state, error = recorded_state(run)
    if state == "finished":
        # The command prints such a line if a check failed, although the run itself is complete.
        line = last_line(job["log"]) or ""
        return ("failed", line) if line.startswith("failed: ") else (state, error)
    if state == "damaged" or job["job_id"] is None:
        return state, error
    try:
        slurm, status = run.manifest.get("slurm") or {}, run.status
    except RunFileError:
        return state, error
    ids = {str(slurm.get("job_id")), f"{slurm.get('array_job_id')}_{slurm.get('array_task_id')}"}
    if executor == "slurm" and slurm:
        is_own = job["job_id"] in ids
    else:
        is_own = not _is_earlier(status.get("started"), job["submitted"])
    return (state, error) if is_own else (None, None)


def _is_earlier(one: Any, other: Any) -> bool:
    """Return whether a date in ISO format is earlier than another; False if one is no date."""
    try:
        return datetime.fromisoformat(one) < datetime.fromisoformat(other)
    except (TypeError, ValueError):
        return False


def _state(
    sweep: Path,
    job: dict[str, Any],
    executor: str | None,
    recorded: tuple[str | None, str | None],
    queued: queue.Queue | None,
    ended: dict[str, JobEnd],
    submits: bool,
) -> JobState:
    (state, error), job_id = recorded, job["job_id"]
    waiting = (queued or {}).get(job_id)
    waits_for, node = (waiting.waits_for, waiting.node) if waiting else (None, None)
    if state == "damaged" and (waiting is not None or _is_process(executor, job_id)):
        # The job may be writing the file: Hydra does not write atomically.
        queues = waiting is not None and waiting.state in queue.PENDING
        state, error = "queued" if queues else "running", None
    elif state in ("finished", "damaged"):
        pass
    elif executor == "local":
        state = _local_state(state, job_id)
    elif executor != "slurm":
        state = state or "unknown"
    elif job_id is None and submits:  # it waits for the launcher, whatever an earlier start was
        state, error = "queued", None
    elif job_id is None:
        state, error = (state, error) if state else ("missing", "it was never submitted")
    elif waiting is not None:
        if waiting.state in queue.PENDING:
            state, error = "queued", None
        elif state != "failed":  # a failed job may still be completing
            state = "running"
    elif job["end"] is not None and job_id not in ended:
        state, error = job["end"]
    elif queued is None:
        # The status may be outdated: the job may be queued again, or gone.
        if state != "failed":
            state, error = "unknown", queue.NO_ANSWER
    else:
        end = ended.get(job_id)
        node = end and end.node
        state, error = cause_of_end(recorded, end, job["log"])
    if state in FAILURES and error is None:
        error = last_line(job["log"])
    words = job["overrides"]
    if not words and is_run_folder(job["folder"]):  # a job that has drawn its own settings
        with suppress(RunFileError):
            words = Run(job["folder"]).overrides
    overrides = tuple(map(printable, words))
    return JobState(
        *(job["number"], overrides, state, error, job["log"], job["folder"], sweep, job_id),
        waits_for=waits_for,
        node=node and printable(node),
    )


def _local_state(state: str | None, job_id: str | None) -> str:
    if state in (None, "preempted", "killed"):
        if _is_process("local", job_id):  # its controller may start the run again
            return "queued"
        return state or ("lost" if job_id else "missing")
    return state


def _is_process(executor: str | None, job_id: str | None) -> bool:
    """Return whether a local job lives; its id is the id of its controller process."""
    if executor != "local" or not job_id or not job_id.isdecimal():
        return False
    return process_mark(int(job_id)) is not None


def read_sweep(sweep: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the content of `sweep.json`, and its jobs with checked values."""
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
        "submitted": job.get("submitted"),
        "end": _read_end(job.get("end")),
    }


def _read_end(end: Any) -> tuple[str, str | None] | None:
    """Return the state and error that a launcher recorded of a job whose run recorded none."""
    if not isinstance(end, dict) or end.get("state") not in FAILURES:
        return None
    error = end.get("error")
    return end["state"], one_line(error) if isinstance(error, str) else None


def _are_words(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(word, str) for word in value)


def _inside(sweep: Path, name: Any, where: str) -> Path:
    if isinstance(name, str) and name and "\0" not in name:
        path = sweep / name.encode("utf-8", "replace").decode()
        if path.resolve().is_relative_to(sweep.resolve()):
            return path
    raise RunFileError(f"{where}={name!r}: expected a path inside {sweep}")
