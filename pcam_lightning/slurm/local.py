"""Jobs of a local sweep, of which only so many run at the same time.

submitit starts a controller process for each job at once, and each controller its training.
Here a controller waits for a free place first: `python -m pcam_lightning.slurm.local PLACES COUNT
FOLDER`.
"""

import fcntl
import os
import shlex
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

SECONDS_BETWEEN_TRIES = 0.5


def cores() -> int:
    """Return the number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def parallelism(parameters: Mapping[str, Any]) -> int:
    """Return how many jobs of a local launcher run at the same time.

    `array_parallelism` of its parameters; null for as many as there are cores for.
    """
    each = (parameters.get("tasks_per_node") or 1) * (parameters.get("cpus_per_task") or 1)
    return parameters.get("array_parallelism") or max(1, cores() // each)


def waiting_setup(folder: str, count: int) -> str:
    """Return a line for submitit's `setup`, by which a controller waits for one of `count` places.

    `folder` is submitit's, with %j for a job's id.
    """
    places = Path(folder.partition("%j")[0]) / "places"
    # In the place of the shell, whose process id is the id of the job.
    words = [sys.executable, "-m", __name__, str(places), str(count), folder]
    return f"exec {shlex.join(words)}"


def take_place(places: IO[bytes], count: int) -> None:
    """Wait until one of the first `count` bytes of a file is free; lock it until this process ends.

    Raises OSError where the file system has no locks.
    """
    while not any(_lock(places, place) for place in range(count)):
        time.sleep(SECONDS_BETWEEN_TRIES)


def _lock(places: IO[bytes], place: int) -> bool:
    try:
        fcntl.lockf(places, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
    except (BlockingIOError, PermissionError):  # another process has it
        return False
    return True


def main() -> None:
    path, count, folder = sys.argv[1:]
    os.setsid()  # Ctrl-C ends the wait for the jobs, not the jobs
    with open(path, "ab") as places:
        try:
            take_place(places, int(count))
        except OSError as error:
            print(f"warning: {path}: {error.strerror}; this job does not wait", file=sys.stderr)
        from submitit.local.local import Controller

        os.environ["SUBMITIT_LOCAL_WITH_SHELL"] = ""  # this process has the shell's id
        Controller(Path(folder)).run()


if __name__ == "__main__":
    main()
