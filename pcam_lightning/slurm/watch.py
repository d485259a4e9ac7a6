"""A cached view of Slurm for commands that wait."""

import time
from collections.abc import Callable, Sequence

from pcam_lightning.slurm import ends, queue
from pcam_lightning.slurm.ends import JobEnd
from pcam_lightning.slurm.queue import NO_ANSWER, Queue, QueuedJob

SHORTEST_PAUSE, LONGEST_PAUSE = 30.0, 120.0
"""Seconds between two queries: all users of a cluster share one Slurm controller."""


class Watch:
    """Slurm's queue and the ends of jobs, as of the last query.

    It asks Slurm at most every 30 s, and every 2 minutes if nothing changes.

    Args:
        report: called with one line when Slurm stops answering, and when it answers again.

    Attributes:
        answers: number of answers that Slurm has given.
        count: number of this user's jobs in the queue, at the last answer.
    """

    def __init__(self, report: Callable[[str], object] = lambda text: None) -> None:
        self.answers, self.count = 0, 0
        self._report = report
        self._queue: Queue | None = {}
        self._ends: dict[str, JobEnd] = {}
        self._ends_answer = 0
        self._asked: set[str] = set()
        self._next, self._pause = 0.0, SHORTEST_PAUSE

    def queued_jobs(self, job_ids: Sequence[str]) -> Queue | None:
        """Return `queue.queued_jobs(job_ids)` as of the last query.

        A job that is asked for the first time after that counts as waiting: it may be newer.
        """
        if time.monotonic() >= self._next:
            self._ask()
            self._asked |= {*job_ids}
        if self._queue is None:
            return None
        waiting = {job: QueuedJob("PENDING") for job in job_ids if job not in self._asked}
        return waiting | {job: self._queue[job] for job in job_ids if job in self._queue}

    def job_ends(self, job_ids: Sequence[str]) -> dict[str, JobEnd]:
        """Return `ends.job_ends(job_ids)`, asked once for each answer about the queue."""
        if self._ends_answer != self.answers:
            self._ends, self._ends_answer = ends.job_ends(job_ids), self.answers
        return {job: self._ends[job] for job in job_ids if job in self._ends}

    def _ask(self) -> None:
        known = queue.own_jobs()
        if (known is None) != (self._queue is None):
            self._report(f"{NO_ANSWER}; waiting" if known is None else "Slurm answers again")
        unchanged = known is None or known == self._queue
        self._pause = min(2 * self._pause, LONGEST_PAUSE) if unchanged else SHORTEST_PAUSE
        self._queue = known
        if known is not None:
            self.answers, self.count = self.answers + 1, len(known)
        self._next = time.monotonic() + self._pause
