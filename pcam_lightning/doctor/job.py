"""Short Slurm jobs that show whether this Python starts on a node, and sees its GPU."""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pcam_lightning.doctor.cluster import Partition, chosen
from pcam_lightning.doctor.finding import Finding, green, red, yellow
from pcam_lightning.doctor.probe import read_facts
from pcam_lightning.errors import one_line
from pcam_lightning.slurm.queue import SECONDS, ask, queued_jobs

MINUTES = 5
"""Time limit of a job; the first import of torch on a node may take a minute."""
SECONDS_BETWEEN_LOOKS = 5.0
SECONDS_TO_APPEAR = 10.0
"""Time until another machine sees the end of a log on a network disk."""


@dataclass(frozen=True)
class Job:
    """A submitted test job."""

    kind: str
    id: str
    log: Path


def examine(
    folder: Path, cluster: Mapping[str, Any], partitions: Mapping[str, Partition], wait_s: float
) -> Iterator[Finding]:
    """Submit a job to the CPU partition, and one to the GPU partition if it has GPUs; wait.

    Args:
        folder: folder for their logs, on a disk that the nodes share.
        cluster: section `cluster` of the config.
        partitions: as from `cluster.read_partitions`.
        wait_s: time after which jobs that have not ended are canceled.
    """
    jobs = []
    for kind in ("cpu", "gpu"):
        names = chosen(kind, cluster, partitions)
        if kind == "gpu" and not any(partitions[n].has_gpus for n in names if n in partitions):
            continue
        log = folder / f"job_{kind}.log"
        try:
            jobs.append(Job(kind, _submit(kind, cluster, names, log), log))
        except (OSError, subprocess.SubprocessError) as error:
            text = getattr(error, "stderr", None) or error
            fact = f"sbatch rejects it: {one_line(text)}"
            yield red(
                f"{kind} job", fact, f"sinfo   # cluster.{kind}.partition=NAME cluster.account=NAME"
            )
    deadline = time.monotonic() + wait_s
    waiting = {job.id for job in jobs}
    while waiting and time.monotonic() < deadline:
        time.sleep(SECONDS_BETWEEN_LOOKS)
        listed = queued_jobs(sorted(waiting))
        if listed is not None:
            waiting &= listed.keys()
    for job in jobs:
        yield _unfinished(job, wait_s) if job.id in waiting else _ended(job)


def _submit(kind: str, cluster: Mapping[str, Any], names: Sequence[str], log: Path) -> str:
    """Submit a job and return its id."""
    options = [f"--partition={','.join(names)}", "--ntasks=1", "--cpus-per-task=1"]
    if cluster["account"]:
        options.append(f"--account={cluster['account']}")
    if kind == "gpu":
        options.append("--gpus-per-node=1")
    options += [f"--job-name=pcam_doctor_{kind}", f"--time={MINUTES}", f"--output={log}"]
    probe = shlex.join([sys.executable, "-m", "pcam_lightning.doctor.probe"])
    lines = ["#!/bin/bash", *cluster["setup"], 'echo "node: $(hostname) $SLURMD_NODENAME"', probe]
    done = subprocess.run(
        ["sbatch", "--parsable", *options],
        input="\n".join(lines) + "\n",
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=True,
        env=_outside_of_jobs(),
    )
    return done.stdout.strip().partition(";")[0]


def _outside_of_jobs() -> dict[str, str]:
    """Return the environment without the variables of a surrounding Slurm job."""
    prefixes = ("SLURM_", "SLURMD_", "SBATCH_", "SRUN_")
    return {
        name: value for name, value in os.environ.items()
        if name == "SLURM_CONF" or not name.startswith(prefixes)
    }  # fmt: skip


def _unfinished(job: Job, wait_s: float) -> Finding:
    """Cancel a job that has not ended, and return the finding."""
    shown = ask("squeue", "--noheader", f"--jobs={job.id}", "--format=%T %r")
    ask("scancel", job.id)
    state = one_line(shown) if shown else "Slurm does not answer"
    fact = f"job {job.id} has not ended after {wait_s:g} s and was canceled: {state}"
    return yellow(
        f"{job.kind} job", fact, f"squeue --partition=NAME; sinfo; doctor.wait_s={4 * wait_s:g}"
    )


def _ended(job: Job) -> Finding:
    """Return the finding about an ended job, from its log."""
    deadline = time.monotonic() + SECONDS_TO_APPEAR
    while True:
        try:
            text = job.log.read_text(errors="replace")
        except OSError:
            text = ""
        facts = read_facts(text)
        if facts.fault is None or time.monotonic() > deadline:
            break
        time.sleep(1)
    name, mend = f"{job.kind} job", f"cat {job.log}"
    lines = [line for line in text.splitlines() if line.strip()]
    node = next((line.split()[-1] for line in lines if line.startswith("node: ")), "unknown node")
    if facts.fault:
        last = one_line(lines[-1]) if lines else "its log is missing or empty"
        return red(name, f"job {job.id} on {node} failed: {last}", mend)
    gpus = facts.get("gpus") or []
    fact = f"job {job.id} on {node}: torch {facts.get('torch')}, {facts.get('threads')} threads, "
    fact += f"GPUs: {', '.join(gpus) if gpus else 'none'}"
    if job.kind == "gpu" and not gpus:
        reason = facts.get("gpu_error") or facts.get("gpu_warning") or "no reason given"
        return red(name, one_line(f"{fact} ({reason})"), mend)
    return green(name, one_line(fact))
