"""Several small runs in one job, for sites that charge for a large part of a node at least."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from pcam_lightning.slurm.requeue import PACKED, checkpoint, requeue

STOPPED = 128 + signal.SIGUSR2
"""Exit status of a run that has saved, and is to be continued."""


@dataclass(frozen=True)
class PackedRuns:
    """A function that runs several calls at the same time, each in a process of its own.

    The processes share the job's GPUs and memory, and divide its CPU cores. If Slurm's signal to
    save reaches the job, all runs save before the job is requeued. The job fails if a run fails.

    Attributes:
        function: the function of a job with a single run.
        logs: name of each run's log without its suffix, in the job's folder of logs.
    """

    function: Callable[..., Any]
    logs: tuple[str, ...]

    def __call__(self, calls: Sequence[tuple[Any, ...]]) -> None:
        folder = Path(os.environ["SUBMITIT_FOLDER"].replace("%j", _job_id()))
        before = signal.getsignal(signal.SIGUSR2)
        processes: dict[int, Path] = {}
        # Before the first process exists, so that no signal is lost.
        signal.signal(signal.SIGUSR2, lambda *_: _forward(processes))
        for place, arguments in enumerate(calls):
            log = folder / f"{_job_id()}_{self.logs[place]}"
            sys.stdout.flush()
            sys.stderr.flush()
            pid = os.fork()
            if pid == 0:
                _run(self.function, arguments, log, place, len(calls))
            processes[pid] = log
        codes = [_wait(pid, log) for pid, log in processes.items()]
        signal.signal(signal.SIGUSR2, before)
        if STOPPED in codes:
            requeue(signal.SIGUSR2)
        if worst := max(codes):
            sys.exit(worst)

    checkpoint = checkpoint


def _run(
    function: Callable[..., Any], arguments: tuple[Any, ...], log: Path, place: int, count: int
) -> NoReturn:
    """Run one call in a new process, and end the process."""
    code = 1
    try:
        signal.signal(signal.SIGUSR2, signal.SIG_DFL)
        os.environ[PACKED] = str(place)
        _take_share(place, count)
        for number, suffix in ((1, "log.out"), (2, "log.err")):
            path = log.with_name(f"{log.name}_{suffix}")
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            os.dup2(file, number)
        returned = function(*arguments)
        code = 0 if returned is None else _code(returned)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(bool(stop.code))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _code(returned: Any) -> int:
    """Return 1 if Hydra's JobReturn holds an exception, else 0."""
    try:
        _ = returned.return_value
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    except Exception:
        traceback.print_exc()
        return 1
    return 0


def _take_share(place: int, count: int) -> None:
    """Use this process's part of the job's CPU cores."""
    cores = sorted(os.sched_getaffinity(0))
    asked = int(os.environ.get("SLURM_CPUS_PER_TASK") or len(cores))
    share = max(1, min(asked, len(cores)) // count)
    os.environ["OMP_NUM_THREADS"] = str(share)
    if len(cores) >= share * count:
        os.sched_setaffinity(0, cores[place * share : (place + 1) * share])


def _wait(pid: int, log: Path) -> int:
    """Return the exit status of a process; report the signal that killed it in its log."""
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code >= 0:
        return code
    if code == -signal.SIGUSR2:  # before the run listened to it
        return STOPPED
    with log.with_name(f"{log.name}_log.err").open("a") as file:
        file.write(f"signal {signal.Signals(-code).name} ended this run\n")
    return 128 - code


def _forward(processes: dict[int, Path]) -> None:
    """Pass Slurm's signal to save on to the runs."""
    for pid in processes:
        try:
            os.kill(pid, signal.SIGUSR2)
        except ProcessLookupError:
            continue


def _job_id() -> str:
    import submitit

    return submitit.JobEnvironment().job_id
