"""Slurm's queue, as far as it can be asked."""

import subprocess
from collections.abc import Sequence

SECONDS = 30


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
    if not job_ids:
        return {}
    # Of all jobs: asked for one that has left the queue, squeue fails.
    listed = ask("squeue", "--noheader", "--array", "--me", "--format=%i %T")
    if listed is None:
        return None
    lines = (line.split() for line in listed.splitlines())
    return {words[0]: words[1] for words in lines if len(words) == 2 and words[0] in job_ids}
