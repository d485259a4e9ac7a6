"""Wait for the jobs of a sweep, however they end."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus

from pcam_lightning.runs import Run
from pcam_lightning.runs.status import RunFileError
from pcam_lightning.slurm.jobs import last_line
from pcam_lightning.slurm.queue import Watch

SECONDS_BETWEEN_LOOKS = 1.0
"""Pause between two looks at the jobs' files; Slurm is asked less often (see `queue.Watch`)."""
SECONDS_GONE = 10.0
"""A job has ended without a result if it is missing in two answers of Slurm this far apart."""


def wait(sweep: Path, records: Sequence[dict[str, Any]], jobs: Sequence[Any]) -> list[JobReturn]:
    """Print each change of a job's state until all jobs have ended.

    A job that has left the queue without a result has failed. While Slurm does not answer, no job
    counts as having left it. Ctrl-C leaves the jobs running.

    Args:
        sweep: folder of the sweep.
        records: each job as `sweep.json` lists it.
        jobs: submitit's object for each job.

    Returns:
        One JobReturn per job; that of a failed job raises SystemExit on `return_value`.
    """
    count = "1 job" if len(jobs) == 1 else f"{len(jobs)} jobs"
    _print(f"submitted {count}; logs and sweep.json are in {sweep}")
    _print(f"look again: python -m pcam_lightning.collect runs={sweep} watch=true")
    titles = _titles(records)
    printed: dict[int, str] = {}
    gone_since: dict[int, float] = {}
    returns: dict[int, JobReturn] = {}
    watch = Watch(_print)
    try:
        while len(returns) < len(jobs):
            waiting = [i for i in range(len(jobs)) if i not in returns]
            queue = _queue([jobs[i] for i in waiting], watch)
            for i in waiting:
                state, ended = _state(jobs[i], queue)
                if not ended and state == "gone":
                    since = gone_since.setdefault(i, watch.answered)
                    ended = watch.answered - since > SECONDS_GONE
                elif state not in ("gone", "unknown"):
                    gone_since.pop(i, None)
                if ended:
                    returns[i], state = _outcome(sweep, records[i], jobs[i])
                if state not in ("gone", "unknown", printed.get(i)):
                    printed[i] = state
                    _print(f"{titles[i]}: {state}")
            if len(returns) < len(jobs):
                time.sleep(SECONDS_BETWEEN_LOOKS)
    except KeyboardInterrupt:
        _print(f"stopped waiting; the jobs continue. To stop them: {_stop_command(jobs)}")
        sys.exit(130)
    return [returns[i] for i in range(len(jobs))]


def _titles(records: Sequence[dict[str, Any]]) -> list[str]:
    """Return the number of each job and its overrides that not all jobs have."""
    common = set.intersection(*(set(record["overrides"]) for record in records))
    return [
        " ".join([f"#{record['number']}", *(o for o in record["overrides"] if o not in common)])
        for record in records
    ]


def _queue(jobs: Sequence[Any], watch: Watch) -> dict[str, str] | None:
    """Return the state of each job that has not ended; None if Slurm does not answer."""
    if _is_local(jobs[0]):
        return {
            job.job_id: "RUNNING" if _tasks(job)[0].paths.stdout.exists() else "PENDING"
            for job in jobs
            if not job.done()
        }
    return watch.states([job.job_id for job in jobs])


def _state(job: Any, queue: dict[str, str] | None) -> tuple[str, bool]:
    """Return a job's state as printed, and whether the job has certainly ended."""
    if all(task.paths.result_pickle.exists() for task in _tasks(job)):
        return "ended", True
    if queue is None:
        return "unknown", False
    state = queue.get(job.job_id)
    if state is None:
        return "gone", _is_local(job)
    return f"{'queued' if state == 'PENDING' else state.lower()}, job {job.job_id}", False


def _outcome(sweep: Path, record: dict[str, Any], job: Any) -> tuple[JobReturn, str]:
    returned = JobReturn(overrides=record["overrides"], working_dir=str(sweep / record["folder"]))
    if all(_succeeded(task) for task in _tasks(job)) or _is_finished(sweep, record):
        returned.status = JobStatus.COMPLETED
        return returned, "finished"
    returned.status, returned.return_value = JobStatus.FAILED, SystemExit(1)
    return returned, f"failed: {_error(sweep, record)}; log: {sweep / record['log']}"


def _tasks(job: Any) -> Sequence[Any]:
    """Return submitit's object for each rank of a job."""
    return [job.task(number) for number in range(job.num_tasks)]


def _is_local(job: Any) -> bool:
    """Return whether a job is a process of this machine."""
    from submitit import LocalJob

    return isinstance(job, LocalJob)


def _succeeded(task: Any) -> bool:
    return task.paths.result_pickle.exists() and task.exception() is None


def _is_finished(sweep: Path, record: dict[str, Any]) -> bool:
    """Return whether the run is complete, though a signal may have ended its job afterwards."""
    try:
        state = Run(sweep / record["folder"]).state
    except (RunFileError, OSError):
        return False
    log = sweep / record["log"]
    lines = log.read_text(errors="replace").splitlines() if log.is_file() else []
    # The command prints this line if a check failed, although the run itself is complete.
    return state == "finished" and not any(line.startswith("failed: ") for line in lines)


def _error(sweep: Path, record: dict[str, Any]) -> str:
    """Return the error of a failed job: from its status, else the last line of its log."""
    try:
        status = Run(sweep / record["folder"]).status
        if status.get("error"):
            return str(status["error"]["text"])
    except (RunFileError, OSError):
        pass
    return last_line(sweep / record["log"]) or "no error message"


def _stop_command(jobs: Sequence[Any]) -> str:
    if _is_local(jobs[0]):
        return f"kill {' '.join(str(job.job_id) for job in jobs)}"
    return f"scancel {jobs[0].job_id.partition('_')[0]}"


def _print(text: str) -> None:
    print(text, flush=True)
