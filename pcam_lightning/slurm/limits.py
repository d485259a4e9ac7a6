"""Numbers of jobs that Slurm accepts: the largest array, and a user's jobs in the queue."""

import getpass
import re

from pcam_lightning.slurm.queue import ask

SUBMIT_LIMIT = re.compile(
    r"SubmitJob|job submit limit|MaxJobCount|temporarily unable|JobArraySize",
    re.IGNORECASE,
)
"""Text in sbatch's message when it rejects a job for the number of jobs in the queue."""


def largest_array() -> int | None:
    """Return the largest number of jobs in one array; None if unknown."""
    found = re.search(r"MaxArraySize\s*=\s*(\d+)", ask("scontrol", "show", "config") or "")
    return int(found[1]) if found else None


def most_queued(account: str | None) -> int | None:
    """Return the largest number of this user's jobs in the queue; None if unknown or unlimited.

    Limits that the accounting database does not show here, such as those of a quality of service,
    become known when sbatch rejects a job.
    """
    words = ("--noheader", "--parsable2", "show", "associations", f"user={getpass.getuser()}")
    listed = ask("sacctmgr", *words, "format=Account,MaxSubmitJobs")
    limits = []
    for line in (listed or "").splitlines():
        name, _, limit = line.partition("|")
        if limit.strip().isdecimal() and account in (None, name):
            limits.append(int(limit))
    return min(limits, default=None)
