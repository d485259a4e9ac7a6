"""Giving a job back to the queue, to go on later."""

import os
import signal
import time


def requeue(number: int) -> None:
    """Where submitit's own signal asked this job to stop, have it requeued; else return.

    Everything has to be saved by now. Does not return where the job was requeued, since Slurm then
    ends all of its processes.
    """
    if "SUBMITIT_EXECUTOR" not in os.environ or number != signal.SIGUSR2:
        return
    from submitit.core.utils import UncompletedJobError

    try:
        signal.raise_signal(number)  # its handler requeues the job, on the first rank
    except UncompletedJobError as error:
        print(f"error: {error}", flush=True)
        return
    # A rank that ended before the first one has requeued the job would take it along.
    time.sleep(60)
