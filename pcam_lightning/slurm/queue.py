"""Jobs in Slurm's queue, from squeue."""

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

SECONDS = 30
"""Time limit of a Slurm command."""
NO_ANSWER = "Slurm does not answer"
PENDING = frozenset({"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT"})
RUNNING = frozenset(
    {"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "RESIZING", "STAGE_OUT"}
)
# A job in any other state of Slurm has left the queue.
FORMAT = "%i|%T|%r|%S|%N"


@dataclass(frozen=True)
class QueuedJob:
    """A job in Slurm's queue.

    Attributes:
        state: Slurm's word, such as PENDING.
        reason: Slurm's word for why a job waits, such as Priority; None for a running job.
        start: time at which the job started, or is expected to; None if unknown.
        node: nodes of a running job; None for a waiting job.
    """

    state: str
    reason: str | None = None
    start: str | None = None
    node: str | None = None

    @property
    def waits_for(self) -> str | None:
        """A text such as `Priority, starts about 2026-11-29T12:00:00`; None for a running job."""
        if self.state not in PENDING:
            return None
        texts = (self.reason, self.start and f"starts about {self.start}")
        return ", ".join(filter(None, texts)) or None


Queue = dict[str, QueuedJob]
"""Jobs in the queue by submitit's id: "13", or "12_0" in an array."""


def ask(*command: str) -> str | None:
    """Return the output of a Slurm command; None if it does not exist, fails or takes too long."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return None if done.returncode else done.stdout


def queued_jobs(job_ids: Sequence[str]) -> Queue | None:
    """Return these of the jobs that are in Slurm's queue; None if Slurm does not answer."""
    queue = own_jobs() if job_ids else {}
    return queue and {job: queue[job] for job in job_ids if job in queue}


def own_jobs() -> Queue | None:
    """Return all of this user's jobs in the queue; None if Slurm does not answer."""
    # All jobs, since squeue fails if it is asked for a job that has left the queue.
    listed = ask("squeue", "--noheader", "--array", "--me", f"--format={FORMAT}")
    if listed is None:
        return None
    rows = (line.strip().split("|") for line in listed.splitlines())
    return {row[0]: _job(*row[1:]) for row in rows if len(row) == len(FORMAT.split("|"))}


def _job(state: str, reason: str, start: str, node: str) -> QueuedJob:
    waits = state in PENDING
    return QueuedJob(
        state,
        reason if waits and reason not in ("", "None") else None,
        start if start not in ("", "N/A") else None,
        node or None,
    )
