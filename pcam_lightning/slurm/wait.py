"""Waiting for the jobs of a sweep, however they end."""

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
"""At files and processes of the jobs; Slurm is asked less often (see `queue.Watch`)."""
SECONDS_GONE = 10.0
"""A job has ended without a result if two answers of Slurm at least this far apart lack it."""


def wait(sweep: Path, records: Sequence[dict[str, Any]], jobs: Sequence[Any]) -> list[JobReturn]:
    """Say what becomes of each job until all have ended.

    A job that leaves neither the queue nor a result behind is waited for; one that is out of the
    queue without a result has failed. While Slurm does not answer, no job is out of it. Returns one
    JobReturn a job; a failed one raises SystemExit when asked for its value. Ctrl-C leaves the jobs
    running.
    """
    many = "1 job" if len(jobs) == 1 else f"{len(jobs)} jobs"
    _say(f"submitted {many}; logs and sweep.json are in {sweep}")
    _say(f"look again: python -m pcam_lightning.collect runs={sweep} watch=true")
    titles = _titles(records)
    said: dict[int, str] = {}
    gone_since: dict[int, float] = {}
    returns: dict[int, JobReturn] = {}
    watch = Watch(_say)
    try:
        while len(returns) < len(jobs):
            waiting = [i for i in range(len(jobs)) if i not in returns]
            queue = _queue([jobs[i] for i in waiting], watch)
            for i in waiting:
                state, over = _look(jobs[i], queue)
                if not over and state == "gone":
                    since = gone_since.setdefault(i, watch.answered)
                    over = watch.answered - since > SECONDS_GONE
                elif state not in ("gone", "unknown"):
                    gone_since.pop(i, None)
                if over:
                    returns[i], state = _outcome(sweep, records[i], jobs[i])
                if state not in ("gone", "unknown", said.get(i)):
                    said[i] = state
                    _say(f"{titles[i]}: {state}")
            if len(returns) < len(jobs):
                time.sleep(SECONDS_BETWEEN_LOOKS)
    except KeyboardInterrupt:
        _say(f"left; the jobs go on. To stop them: {_stopping(jobs)}")
        sys.exit(130)
    return [returns[i] for i in range(len(jobs))]


def _titles(records: Sequence[dict[str, Any]]) -> list[str]:
    """Number of each job and in what it differs from the others."""
    common = set.intersection(*(set(record["overrides"]) for record in records))
    own = [[o for o in record["overrides"] if o not in common] for record in records]
    return [
        " ".join([f"#{record['number']}", *overrides])
        for record, overrides in zip(records, own, strict=True)
    ]


def _queue(jobs: Sequence[Any], watch: Watch) -> dict[str, str] | None:
    """State of each job in the queue; None where that cannot be known now."""
    if hasattr(jobs[0], "_process"):  # of this machine
        return {
            job.job_id: "RUNNING" if _tasks(job)[0].paths.stdout.exists() else "PENDING"
            for job in jobs
            if not job.done()
        }
    return watch.states([job.job_id for job in jobs])


def _look(job: Any, queue: dict[str, str] | None) -> tuple[str, bool]:
    """What to say of a job, and whether it is over for certain."""
    if all(task.paths.result_pickle.exists() for task in _tasks(job)):
        return "over", True
    if queue is None:
        return "unknown", False
    state = queue.get(job.job_id)
    if state is None:
        return "gone", hasattr(job, "_process")
    return f"{'queued' if state == 'PENDING' else state.lower()}, job {job.job_id}", False


def _outcome(sweep: Path, record: dict[str, Any], job: Any) -> tuple[JobReturn, str]:
    returned = JobReturn(overrides=record["overrides"], working_dir=str(sweep / record["folder"]))
    if all(_succeeded(task) for task in _tasks(job)) or _is_finished(sweep, record):
        returned.status = JobStatus.COMPLETED
        return returned, "finished"
    returned.status, returned.return_value = JobStatus.FAILED, SystemExit(1)
    return returned, f"failed: {_error(sweep, record)}; log: {sweep / record['log']}"


def _tasks(job: Any) -> Sequence[Any]:
    """One for each rank, with a result of its own."""
    return job._sub_jobs or [job]


def _succeeded(task: Any) -> bool:
    return task.paths.result_pickle.exists() and task._get_outcome_and_result()[0] == "success"


def _is_finished(sweep: Path, record: dict[str, Any]) -> bool:
    """Whether the run is whole, though a signal met its job between that and the job's end."""
    try:
        state = Run(sweep / record["folder"]).state
    except (RunFileError, OSError):
        return False
    log = sweep / record["log"]
    lines = log.read_text(errors="replace").splitlines() if log.is_file() else []
    # The word of a check that was asked for and failed.
    return state == "finished" and not any(line.startswith("failed: ") for line in lines)


def _error(sweep: Path, record: dict[str, Any]) -> str:
    """The last thing known of a job that failed."""
    try:
        status = Run(sweep / record["folder"]).status
        if status.get("error"):
            return str(status["error"]["text"])
    except (RunFileError, OSError):
        pass
    return last_line(sweep / record["log"]) or "no word of it"


def _stopping(jobs: Sequence[Any]) -> str:
    if hasattr(jobs[0], "_process"):
        return f"kill {' '.join(str(job.job_id) for job in jobs)}"
    return f"scancel {jobs[0].job_id.partition('_')[0]}"


def _say(text: str) -> None:
    print(text, flush=True)
