"""What Slurm says of jobs that wait or run."""

import os
import subprocess
from collections.abc import Collection

COMMAND = ("squeue", "-h", "-r", "-o", "%i %T")  # -r: one line for each element of an array


def states(job_ids: Collection[str], timeout: float = 30.0) -> dict[str, str] | None:
    """Slurm's word for each of this user's jobs, such as `PENDING` or `RUNNING`.

    Args:
        job_ids: as Slurm writes them: `13`, or `12_0` for an element of an array.
        timeout: seconds to wait for an answer.

    Returns:
        A job that is missing is not in the queue any more. None: Slurm cannot be asked.
    """
    if not job_ids:
        return {}
    try:
        answer = subprocess.run(
            [*COMMAND, "-u", str(os.getuid())], capture_output=True, text=True, timeout=timeout
        )
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    if answer.returncode:
        return None
    lines = (line.split() for line in answer.stdout.splitlines())
    return {words[0]: words[1] for words in lines if len(words) == 2 and words[0] in job_ids}
