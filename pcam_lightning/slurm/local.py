"""Limit of the jobs of a local sweep that run at the same time.

submitit starts a controller process for each job at once, and each controller starts its training.
Here a controller first waits for a free slot: `python -m pcam_lightning.slurm.local FILE COUNT
FOLDER`.
"""

import fcntl
import os
import shlex
import signal
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
    """Return the number of a local launcher's jobs that run at the same time.

    The launcher's `array_parallelism`; if null, the number of jobs that the CPU cores suffice for.
    """
    per_job = (parameters.get("tasks_per_node") or 1) * (parameters.get("cpus_per_task") or 1)
    return parameters.get("array_parallelism") or max(1, cores() // per_job)


def waiting_setup(folder: str, count: int) -> str:
    """Return a shell line for submitit's `setup` that makes a job wait for one of `count` slots.

    `folder` is submitit's folder, with %j for the job's id.
    """
    slots = Path(folder.partition("%j")[0]) / "slots"
    # `exec`: the process id of the shell is the id of the job.
    words = [sys.executable, "-m", __name__, str(slots), str(count), folder]
    return f"exec {shlex.join(words)}"


def take_slot(slots: IO[bytes], count: int) -> None:
    """Wait until one of the first `count` bytes of a file is unlocked, and lock it.

    The lock ends with this process. Raises OSError if the file system has no locks.
    """
    while not any(_lock(slots, slot) for slot in range(count)):
        time.sleep(SECONDS_BETWEEN_TRIES)


def _lock(slots: IO[bytes], slot: int) -> bool:
    try:
        fcntl.lockf(slots, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, slot)
    except (BlockingIOError, PermissionError):  # another process holds it
        return False
    return True


def _leave_terminal(log: Path) -> None:
    """Write this process's own output to a file; a pipe of the launcher could not end before it."""
    null = os.open(os.devnull, os.O_RDONLY)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for number, target in ((0, null), (1, file), (2, file)):
        os.dup2(target, number)


def main() -> None:
    path, count, folder = sys.argv[1:]
    os.setsid()  # Ctrl-C in the terminal must not end the jobs
    # submitit cancels a job with SIGINT, which a sweep in a shell script's background ignores.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _leave_terminal(Path(path).with_name("controllers.log"))
    with open(path, "ab") as slots:
        try:
            take_slot(slots, int(count))
        except OSError as error:
            print(f"warning: {path}: {error.strerror}; this job does not wait", file=sys.stderr)
        from submitit.local.local import Controller

        os.environ["SUBMITIT_LOCAL_WITH_SHELL"] = ""  # this process has replaced the shell
        Controller(Path(folder)).run()


if __name__ == "__main__":
    main()
