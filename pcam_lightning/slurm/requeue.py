"""Requeue of a job that Slurm asked to stop."""

import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

PACKED = "PCAM_PACKED_RUN"
"""Variable in the environment of one of several runs in a job, which all of them requeue once."""


def checkpoint(job: Callable[..., Any], *arguments: Any) -> Any:
    """Return the call that submitit makes when a job starts after a requeue: the same call.

    A class whose instances are jobs names this function as its method `checkpoint`.
    """
    from submitit.helpers import DelayedSubmission

    return DelayedSubmission(job, *arguments)


def requeue(number: int) -> None:
    """Requeue this job if signal `number` is submitit's signal to stop; else return.

    The caller has saved everything. Does not return if the job is requeued, since Slurm then ends
    all of its processes.
    """
    if "SUBMITIT_EXECUTOR" not in os.environ or number != signal.SIGUSR2 or PACKED in os.environ:
        return
    from submitit.core.utils import UncompletedJobError

    try:
        signal.raise_signal(number)  # its handler requeues the job, on the first rank
    except UncompletedJobError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return
    # If this rank ended before the first rank has requeued the job, Slurm would end the job.
    time.sleep(60)
