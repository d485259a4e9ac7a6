"""One operating system process: its identity among all others, and its rank in a run."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

from pcam_lightning.errors import InputError


def process_mark(pid: int) -> str | None:
    """What a living process has and no later owner of the same `pid` can have.

    On Linux the machine's boot id and the process's start in clock ticks since that boot;
    elsewhere the start date that `ps` gives. None when no such process is alive (a killed process
    that its parent has not collected yet counts as gone), or when the system cannot tell.
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
    # The second field is the program's name in brackets and may itself hold spaces and brackets.
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
            # The date is compared as text, so it must not follow the caller's language.
            env={**os.environ, "LC_ALL": "C"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    state, _, start_date = answer.stdout.strip().partition(" ")
    return None if not start_date or state.startswith("Z") else start_date.strip()


class Rank(NamedTuple):
    """The place of this process among those that were started for a run."""

    variable: str
    """The environment variable that tells: RANK, SLURM_PROCID, LOCAL_RANK or NODE_RANK."""
    number: int
    started: int | None = None
    """How many ranks were started, None where nobody tells."""
    nodes: int | None = None
    """On how many nodes they were started, None where nobody tells."""


def read_rank() -> Rank:
    """Return the rank of this process, by the rules of Lightning (2.6) and before its import.

    `torchrun` sets RANK. Slurm's variables count where Slurm started several ranks (see
    `is_srun_rank`). Else the ranks are those that Lightning starts on this machine, or that
    somebody started with LOCAL_RANK and NODE_RANK; a rank on another than the first node is given
    as NODE_RANK.

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
    """Return whether this process is rank 0, or alone: the one that writes a run's files."""
    return read_rank().number == 0


def is_srun_rank() -> bool:
    """Return whether `srun` started this process as one of several tasks.

    Job scripts and interactive shells inherit SLURM_PROCID=0 as well. They are no step of several
    tasks, or one with a terminal (`srun --ntasks=2 --pty bash`).
    """
    if "SLURM_PROCID" not in os.environ:
        return False
    if "SLURM_STEP_ID" in os.environ:
        tasks = _number("SLURM_STEP_NUM_TASKS", _number("SLURM_NTASKS", 1))
        return tasks > 1 and "SLURM_PTY_PORT" not in os.environ
    is_script = os.environ.get("ENVIRONMENT") == "BATCH"
    return _number("SLURM_NTASKS", 1) > 1 and not is_script and not is_interactive_job()


def is_interactive_job() -> bool:
    """Return whether the Slurm job is a shell, by the names that Lightning (2.6) goes by."""
    return os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive")


def _number(name: str, default: Any = None) -> Any:
    value = os.environ.get(name)
    if value is None:
        return default
    try:
        return int(value)
    except ValueError:
        raise InputError(f"{name}={value}: expected a number in this variable") from None
