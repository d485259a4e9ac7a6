"""Identity of an operating system process, and its rank in a run."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

from pcam_lightning.errors import InputError


def process_mark(pid: int) -> str | None:
    """Return an identifier that distinguishes a process from later ones with the same `pid`.

    On Linux, this is the boot id and the start of the process in clock ticks since boot, which,
    unlike a date, do not change with the system clock; on other systems, the start date from `ps`.
    Returns None if the process is not alive (a zombie is not) or if the system does not report it.
    """
    if Path("/proc/self/stat").exists():
        return _mark_from_proc(pid)
    return _mark_from_ps(pid)


def _mark_from_proc(pid: int) -> str | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    except OSError:
        return None
    # The second field, the program's name in brackets, may contain spaces and brackets.
    fields = stat.rpartition(")")[2].split()
    state, start_ticks = fields[0], fields[19]
    return None if state in "ZX" else f"{boot}:{start_ticks}"


def _mark_from_ps(pid: int) -> str | None:
    try:
        answer = subprocess.run(
            ["ps", "-o", "stat=,lstart=", "-p", str(pid)],
            capture_output=True,
            text=True,
            timeout=10,
            # The date is compared as text and must not depend on the language.
            env={**os.environ, "LC_ALL": "C"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    state, _, start_date = answer.stdout.strip().partition(" ")
    return None if not start_date or state.startswith("Z") else start_date.strip()


class Rank(NamedTuple):
    """The rank of this process among the processes of a run."""

    variable: str
    """The environment variable with the rank: RANK, SLURM_PROCID, LOCAL_RANK or NODE_RANK."""
    number: int
    started: int | None = None
    """Number of ranks, None if unknown."""
    nodes: int | None = None
    """Number of nodes, None if unknown."""


def read_rank() -> Rank:
    """Return the rank of this process by the rules of Lightning (2.6), without importing it.

    `torchrun` sets RANK. Slurm's variables count if Slurm started several ranks (see
    `is_srun_rank`). Otherwise Lightning, or a person, sets LOCAL_RANK and NODE_RANK; NODE_RANK is
    returned on every node but the first.

    Raises:
        InputError: one of the variables is not a number.
    """
    if "RANK" in os.environ:
        return Rank("RANK", _number("RANK", 0), _number("WORLD_SIZE"))
    if is_srun_rank():
        return Rank(
            "SLURM_PROCID",
            _number("SLURM_PROCID", 0),
            _number("SLURM_STEP_NUM_TASKS", _number("SLURM_NTASKS")),
            _number("SLURM_STEP_NUM_NODES", _number("SLURM_NNODES")),
        )
    if node := _number("NODE_RANK", _number("GROUP_RANK", 0)):
        return Rank("NODE_RANK", node)
    return Rank("LOCAL_RANK", _number("LOCAL_RANK", 0))


def is_first_rank() -> bool:
    """Return True in the process that writes a run's files: rank 0 or the only one."""
    return read_rank().number == 0


def is_srun_rank() -> bool:
    """Return True if `srun` started this process as one of several tasks.

    Job scripts and interactive shells also have SLURM_PROCID=0, but either they are not a step of
    several tasks, or their step has a terminal (`srun --ntasks=2 --pty bash`).
    """
    if "SLURM_PROCID" not in os.environ:
        return False
    if "SLURM_STEP_ID" in os.environ:
        tasks = _number("SLURM_STEP_NUM_TASKS", _number("SLURM_NTASKS", 1))
        return tasks > 1 and "SLURM_PTY_PORT" not in os.environ
    is_script = os.environ.get("ENVIRONMENT") == "BATCH"
    return _number("SLURM_NTASKS", 1) > 1 and not is_script and not is_interactive_job()


def is_interactive_job() -> bool:
    """Return True if the Slurm job is a shell, by the job names that Lightning (2.6) checks."""
    return os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive")


def _number(name: str, default: Any = None) -> Any:
    value = os.environ.get(name)
    if value is None:
        return default
    try:
        return int(value)
    except ValueError:
        raise InputError(f"{name}={value}: expected a number in this variable") from None
