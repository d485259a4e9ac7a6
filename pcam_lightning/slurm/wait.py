"""Wait for the jobs of a sweep, however they end."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus

from pcam_lightning.config.override_text import override
from pcam_lightning.runs.process import process_mark
from pcam_lightning.slurm.jobs import job_states, read_sweep
from pcam_lightning.slurm.submission import PlannedJob, Submission, record_ends
from pcam_lightning.slurm.watch import Watch
from pcam_lightning.sweeps.jobs import FAILURES, JobState, titles

SECONDS_BETWEEN_LOOKS = 1.0
"""Pause between two looks at the jobs' files; Slurm is asked less often (see `watch.Watch`)."""
UNCERTAIN = ("lost", "cancelled", "damaged")
"""States that need a second look: a requeued job may leave the queue for a moment, and a file may
be half written."""


def wait(
    sweep: Path, jobs: Sequence[PlannedJob], submission: Submission, watch: Watch | None = None
) -> list[JobReturn]:
    """Submit jobs as Slurm accepts them, and print each change of a job's state until all ended.

    Jobs of an earlier start that have not ended are waited for, too. While Slurm does not answer,
    no job counts as having left the queue. Ctrl-C leaves the jobs running.

    Args:
        sweep: folder of the sweep.
        jobs: all jobs of this start.
        submission: those of them that are to be submitted.
        watch: view of Slurm; a new one by default.

    Returns:
        One JobReturn per job; that of a failed job raises SystemExit on `return_value`.
    """
    watch = watch or Watch(_print)
    waiting = {job.number for job in submission.left}
    if waiting:
        if submission.cost:
            _print(f"asks for {submission.cost}")
        submission.submit_next(active=0, queued=0)
        count = "1 job" if submission.submitted == 1 else f"{submission.submitted} jobs"
        rest = f", {len(submission.left)} more as Slurm accepts them" if submission.left else ""
        _print(f"submitted {count}{rest}; logs and sweep.json are in {sweep}")
        _print(f"look again: {collect_command(sweep)} watch=true")
    ended = _Ended(sweep, watch, submission.cluster == "local")
    printed: dict[int, str] = {}
    waiting |= {job.number for job in ended.look([j.number for j in jobs]) if not job.has_ended}
    try:
        while waiting:
            states = ended.look(sorted(waiting))
            for job in states:
                if (text := _describe(job)) != printed.get(job.number):
                    printed[job.number] = text
                    _print(f"{ended.titles[job.number]}: {text}")
            waiting -= {job.number for job in states if job.has_ended}
            if submission.left:
                active = len(waiting) - len(submission.left)
                submission.submit_next(active, watch.count)
                os.utime(sweep / "sweep.json")  # a sign of life for other machines
            if waiting:
                time.sleep(SECONDS_BETWEEN_LOOKS)
    except KeyboardInterrupt:
        left = f"; {len(submission.left)} jobs are not submitted" if submission.left else ""
        _print(f"stopped waiting; the jobs continue{left}. To stop them: {stop_command(sweep)}")
        sys.exit(130)
    if submission.cluster == "slurm":
        record_ends(sweep, list(ended.states.values()))
    rest = {job.number for job in jobs} - ended.states.keys()  # left as an earlier start left them
    final = {job.number: job for job in _look(sweep, watch, rest)} if rest else {}
    return [_returned(job, ended.states.get(job.number) or final.get(job.number)) for job in jobs]


def leave(sweep: Path, jobs: Sequence[PlannedJob], submission: Submission) -> list[JobReturn]:
    """Print the ids of submitted jobs and the commands that look at them; wait for nothing."""
    numbers = {job.number for job in jobs}
    if submission.cost:
        _print(f"asked for {submission.cost}")
    ids = [job["job_id"] for job in read_sweep(sweep)[1] if job["number"] in numbers]
    arrays = list(dict.fromkeys(str(job_id).partition("_")[0] for job_id in ids if job_id))
    count, listed = submission.submitted, ", ".join(arrays)
    _print(f"submitted: {count} jobs, ids {listed}; nothing waits for them")
    _print(f"collect: {collect_command(sweep)}")
    _print(f"stop: {stop_command(sweep)}")
    return [_returned(job, None, detached=True) for job in jobs]


def collect_command(sweep: Path) -> str:
    """Return the command that collects a sweep, for pasting into a shell."""
    return f"python -m pcam_lightning.collect {override('runs', str(sweep))}"


def stop_command(sweep: Path) -> str:
    """Return the command that ends the jobs of a sweep, for pasting into a shell."""
    return f"{collect_command(sweep)} cancel=true"


class _Ended:
    """States of a sweep's jobs, of which those that have ended are kept."""

    def __init__(self, sweep: Path, watch: Watch, is_local: bool) -> None:
        self.states: dict[int, JobState] = {}
        self.titles: dict[int, str] = {}
        self._sweep, self._watch, self._is_local = sweep, watch, is_local
        self._suspected: dict[int, int] = {}

    def look(self, numbers: Sequence[int]) -> list[JobState]:
        """Return the current states of jobs, as far as they are certain."""
        if not (self._sweep / "sweep.json").is_file():
            return []
        jobs = _look(self._sweep, self._watch, numbers)
        jobs = [
            # An app of another project writes no run folder.
            replace(job, state="finished")
            if job.state == "lost" and job.run is None and result_path(job).exists()
            else job
            for job in jobs
        ]
        if not self.titles:
            texts = zip(jobs, titles(jobs), strict=True)
            self.titles = {job.number: f"#{job.number} {text}".strip() for job, text in texts}
        certain = [job for job in jobs if not job.has_ended or self._is_certain(job)]
        self.states |= {job.number: job for job in certain if job.has_ended}
        return certain

    def _is_certain(self, job: JobState) -> bool:
        """Return whether a job has surely ended."""
        if job.state == "finished":
            # The command may still fail a check after its run has finished.
            return result_path(job).exists() or self._is_gone(job)
        return job.state not in UNCERTAIN or self._is_gone(job)

    def _is_gone(self, job: JobState) -> bool:
        """Return whether two answers of Slurm lack a job."""
        if job.job_id is None:
            return True
        if self._is_local:
            return not process_mark(int(job.job_id))
        queued = self._watch.queued_jobs([job.job_id])
        if queued is None or job.job_id in queued:
            self._suspected.pop(job.number, None)
            return False
        since = self._suspected.setdefault(job.number, self._watch.answers)
        return self._watch.answers > since


def _look(sweep: Path, watch: Watch, numbers: Collection[int]) -> list[JobState]:
    return job_states(sweep, watch.queued_jobs, watch.job_ends, numbers)


def result_path(job: JobState) -> Path:
    """Return the file that submitit writes when the first rank of a job has succeeded."""
    return job.sweep / ".submitit" / f"{job.job_id}" / f"{job.job_id}_0_result.pkl"


def _describe(job: JobState) -> str:
    if job.state == "queued" and job.job_id:
        waits = f" ({job.waits_for})" if job.waits_for else ""
        return f"queued, job {job.job_id}{waits}"
    if job.state == "running" and job.job_id:
        return f"running, job {job.job_id}" + (f" on {job.node}" if job.node else "")
    if job.state in FAILURES:
        log = f"; log: {shlex.quote(str(job.log))}" if job.log and job.log.is_file() else ""
        return f"{job.state}: {job.error or 'no error message'}{log}"
    return job.state


def _returned(job: PlannedJob, state: JobState | None, detached: bool = False) -> JobReturn:
    returned: Any = JobReturn(overrides=job.overrides)
    returned.working_dir = str(state.folder) if state else None
    if detached or (state and state.state == "finished"):
        returned.status = JobStatus.COMPLETED
    else:
        returned.status, returned.return_value = JobStatus.FAILED, SystemExit(1)
    return returned


def _print(text: str) -> None:
    print(text, flush=True)
