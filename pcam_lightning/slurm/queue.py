"""States of Slurm jobs, from squeue."""

import subprocess
import time
from collections.abc import Callable, Sequence

SECONDS = 30
"""Time limit of a Slurm command."""
MOST_SECONDS_BETWEEN_LOOKS = 30.0
"""Upper limit of the pause between two queries, which doubles from 1 s: all users of a cluster
share one Slurm controller."""
NO_ANSWER = "Slurm does not answer"


def ask(*command: str) -> str | None:
    """Return the output of a Slurm command; None if it does not exist, fails or takes too long."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return None if done.returncode else done.stdout


def states(job_ids: Sequence[str]) -> dict[str, str] | None:
    """Return the state, such as PENDING, of each of these jobs that is still in Slurm's queue.

    `job_ids` are submitit's: "13", or "12_0" in an array. Returns None if Slurm does not answer.
    """
    return _of(job_ids, _listed()) if job_ids else {}


class Watch:
    """A cached view of the queue for a waiting command, which asks Slurm less and less often.

    Args:
        report: called with one line when Slurm stops answering, and when it answers again.

    Attributes:
        answered: time of Slurm's last answer, by `time.monotonic`.
    """

    def __init__(self, report: Callable[[str], object] = lambda text: None) -> None:
        self.answered = 0.0
        self._report = report
        self._known: dict[str, str] | None = {}
        self._next, self._pause = 0.0, 1.0

    def states(self, job_ids: Sequence[str]) -> dict[str, str] | None:
        """Return `states(job_ids)` as of the last query."""
        if time.monotonic() >= self._next:
            known = _listed()
            if (known is None) != (self._known is None):
                self._report(f"{NO_ANSWER}; waiting" if known is None else "Slurm answers again")
            self._known = known
            now = time.monotonic()
            self.answered = self.answered if known is None else now
            self._next = now + self._pause
            self._pause = min(2 * self._pause, MOST_SECONDS_BETWEEN_LOOKS)
        return _of(job_ids, self._known)


def _listed() -> dict[str, str] | None:
    """Return the state of each of this user's jobs; None if Slurm does not answer."""
    # All jobs, since squeue fails if it is asked for a job that has left the queue.
    listed = ask("squeue", "--noheader", "--array", "--me", "--format=%i %T")
    if listed is None:
        return None
    lines = (line.split() for line in listed.splitlines())
    return {words[0]: words[1] for words in lines if len(words) == 2}


def _of(job_ids: Sequence[str], listed: dict[str, str] | None) -> dict[str, str] | None:
    return listed and {job: listed[job] for job in job_ids if job in listed}
