"""One operating system process, told apart from every other that ever had its id."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path


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


def is_first_rank() -> bool:
    """Whether this process is rank 0, or alone: the one that writes a run's files."""
    names = ("RANK", "SLURM_PROCID", "LOCAL_RANK")
    rank = next((os.environ[name] for name in names if name in os.environ), "0")
    return rank == "0"
