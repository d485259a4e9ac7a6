"""Cancellation of a sweep's jobs.

A `sweep.json` may come from a stranger, so that a job is cancelled only if it writes its log into
this sweep's folder.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from pcam_lightning.errors import InputError
from pcam_lightning.slurm.jobs import read_sweep
from pcam_lightning.slurm.queue import SECONDS, ask
from pcam_lightning.sweeps.jobs import JobState


def cancel(jobs: Sequence[JobState]) -> list[JobState]:
    """Cancel those of the jobs of one sweep that have not ended, and return them.

    Raises:
        InputError: Slurm does not answer, or rejects the cancellation.
    """
    active = [job for job in jobs if not job.has_ended and job.job_id is not None]
    if not active:
        return []
    sweep = active[0].sweep
    if read_sweep(sweep)[0].get("executor") == "slurm":
        return _cancel_slurm_jobs(sweep, active)
    own = [job for job in active if _is_own_process(sweep, int(job.job_id or 0))]
    for job in own:
        os.kill(int(job.job_id or 0), signal.SIGTERM)
    return own


def _cancel_slurm_jobs(sweep: Path, jobs: Sequence[JobState]) -> list[JobState]:
    logs = sweep.resolve() / ".submitit"
    own_arrays = set()
    for array in {str(job.job_id).partition("_")[0] for job in jobs}:
        shown = ask("scontrol", "--oneliner", "show", "job", array)
        if shown is None:
            raise InputError(f"{sweep}: Slurm does not answer for job {array}; nothing cancelled")
        paths = re.findall(r" StdOut=(.*?)(?: Power=|$)", shown, re.MULTILINE)
        if paths and all(Path(path).resolve().is_relative_to(logs) for path in paths):
            own_arrays.add(array)
    own = [job for job in jobs if str(job.job_id).partition("_")[0] in own_arrays]
    if own:
        words = ["scancel", *(str(job.job_id) for job in own)]
        done = subprocess.run(words, capture_output=True, text=True, timeout=SECONDS)
        if done.returncode:
            raise InputError(f"{sweep}: scancel: {' '.join(done.stderr.split())}")
    return own


def _is_own_process(sweep: Path, pid: int) -> bool:
    """Return whether a process runs a local job of a sweep."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return any(word.startswith(os.fsencode(sweep.absolute() / ".submitit")) for word in words)
