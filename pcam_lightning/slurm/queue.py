"""Slurm's queue, as far as it can be asked."""

import subprocess
import time
from collections.abc import Callable, Sequence

SECONDS = 30
MOST_SECONDS_BETWEEN_LOOKS = 30.0
"""Slurm's controller serves everybody: who waits asks after 1, 2, 4, ... seconds, and then this
often."""
NO_ANSWER = "Slurm does not answer"


def ask(*command: str) -> str | None:
    """What a command of Slurm prints; None where there is none or it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return None if done.returncode else done.stdout


def states(job_ids: Sequence[str]) -> dict[str, str] | None:
    """State in Slurm's queue, such as PENDING, of each of these jobs that is still in it.

    `job_ids` are submitit's: "13", or "12_0" of an array. None where Slurm cannot be asked now.
    """
    return _of(job_ids, _listed()) if job_ids else {}


class Watch:
    """The queue as a waiting command sees it, which asks less and less often.

    Attributes:
        answered: when Slurm last answered, by `time.monotonic`.
    """

    def __init__(self, say: Callable[[str], object] = lambda text: None) -> None:
        """`say` is called with one line when Slurm stops to answer, and when it answers again."""
        self.answered = 0.0
        self._say = say
        self._known: dict[str, str] | None = {}
        self._next, self._pause = 0.0, 1.0

    def states(self, job_ids: Sequence[str]) -> dict[str, str] | None:
        """Return what `states` returns, or would have returned when Slurm was last asked."""
        if time.monotonic() >= self._next:
            known = _listed()
            if (known is None) != (self._known is None):
                self._say(f"{NO_ANSWER}; waiting" if known is None else "Slurm answers again")
            self._known = known
            now = time.monotonic()
            self.answered = self.answered if known is None else now
            self._next = now + self._pause
            self._pause = min(2 * self._pause, MOST_SECONDS_BETWEEN_LOOKS)
        return _of(job_ids, self._known)


def _listed() -> dict[str, str] | None:
    """Return the state of each of this user's jobs; None where Slurm cannot be asked now."""
    # Of all jobs: asked for one that has left the queue, squeue fails.
    listed = ask("squeue", "--noheader", "--array", "--me", "--format=%i %T")
    if listed is None:
        return None
    lines = (line.split() for line in listed.splitlines())
    return {words[0]: words[1] for words in lines if len(words) == 2}


def _of(job_ids: Sequence[str], listed: dict[str, str] | None) -> dict[str, str] | None:
    return listed and {job: listed[job] for job in job_ids if job in listed}
