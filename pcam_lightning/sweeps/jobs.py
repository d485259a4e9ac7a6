"""A job of a sweep: its state, error and folders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pcam_lightning.errors import one_line, printable
from pcam_lightning.runs import Run
from pcam_lightning.runs.files import MissingRunFileError, RunFileError
from pcam_lightning.runs.run import is_run_folder

DEATHS = ("out_of_memory", "time_limit", "cancelled", "node_failure", "preempted", "killed", "lost")
"""Ends that the run did not cause itself; started again, it continues."""
FAILURES = ("failed", *DEATHS, "damaged", "missing")
"""Ends without a result."""
STATES = ("finished", *FAILURES, "running", "queued", "unknown")


@dataclass(frozen=True)
class JobState:
    """One job of a sweep.

    Attributes:
        number: number in its sweep, from 0.
        overrides: the job's overrides, such as `seed=1`.
        state: `finished`; `failed`: the run or its setup reported an error; `out_of_memory`;
            `time_limit`: without another requeue; `cancelled`; `node_failure`; `preempted`: stopped
            and not queued again; `killed`: its process is gone without a recorded end; `lost`: it
            left the queue without a trace; `damaged`: a file of its folder cannot be read;
            `missing`: never submitted; `running`; `queued`; `unknown`: Slurm does not answer, or
            the run has no status.
        error: the cause in one line, with the override that would help; None if it has none.
        log: log file of the job's process; None if the job has no log of its own.
        folder: run folder, which may not exist yet.
        sweep: folder of the sweep.
        job_id: Slurm's job id, or the process id of a local job.
        waits_for: why a queued job waits, and when it is expected to start; None if unknown.
        node: node of a Slurm job that has started; None if unknown.
    """

    number: int
    overrides: tuple[str, ...]
    state: str
    error: str | None
    log: Path | None
    folder: Path
    sweep: Path
    job_id: str | None = None
    waits_for: str | None = None
    node: str | None = None

    @property
    def run(self) -> Run | None:
        """The job's run; None if it has not begun."""
        return Run(self.folder) if is_run_folder(self.folder) else None

    @property
    def has_ended(self) -> bool:
        """True if the job's state is final."""
        return self.state not in ("running", "queued", "unknown")


def titles(jobs: Sequence[JobState]) -> list[str]:
    """Return each job's overrides that not all jobs have; of a single job, all overrides."""
    common = set.intersection(*(set(job.overrides) for job in jobs)) if len(jobs) > 1 else set()
    return [one_line(" ".join(o for o in job.overrides if o not in common)) for job in jobs]


def count_states(states: Iterable[str]) -> str:
    """Return a text such as `3 finished, 1 lost`."""
    counts = Counter(states)
    return ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])


def job_of_run(sweep: Path, number: int, run: Run) -> JobState:
    """Return the job of a run that no launcher recorded."""
    state, error = recorded_state(run)
    try:
        overrides = tuple(map(printable, run.overrides))
    except RunFileError:
        overrides = ()
    return JobState(number, overrides, state, error, None, run.path, sweep)


def recorded_state(run: Run) -> tuple[str, str | None]:
    """Return the state and error that a run recorded; `damaged` if a file cannot be read."""
    try:
        state = run.state
        for name in ("manifest", "summary", "overrides"):
            try:
                getattr(run, name)
            except MissingRunFileError:
                if state == "finished" and name == "summary":
                    raise
        error = run.status.get("error") if state == "failed" else None
    except RunFileError as damaged:
        return "damaged", one_line(damaged)
    text = error.get("text") if isinstance(error, dict) else error
    return state, None if text is None else one_line(text)
