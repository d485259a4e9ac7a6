"""Resources of a sweep: asked for before submission, and used afterwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pcam_lightning.slurm.ends import JobEnd, job_ends
from pcam_lightning.slurm.jobs import read_sweep
from pcam_lightning.sweeps.jobs import JobState

COLUMNS = ("cpus", "gpus", "minutes", "limit_minutes", "asked_mb", "used_mb")


def describe_request(parameters: Mapping[str, Any], jobs: int) -> str:
    """Return a text on the largest cost of jobs, such as `at most 36 core-hours`.

    A requeued job costs its time limit again.
    """
    nodes, tasks = parameters["nodes"], parameters["tasks_per_node"]
    hours = jobs * parameters["timeout_min"] / 60
    cores = nodes * tasks * (parameters.get("cpus_per_task") or 1)
    gpus = parameters.get("gpus_per_node") or 0
    text = f"{jobs} x {cores} cores x {parameters['timeout_min']} min: "
    text += f"at most {_number(hours * cores)} core-hours"
    if isinstance(gpus, int) and gpus:
        text += f" and {_number(hours * nodes * gpus)} GPU-hours"
    if requeues := parameters.get("max_num_timeout"):
        text += f", and as much again for each of {requeues} requeues"
    return text


def job_usage(jobs: Sequence[JobState]) -> dict[str, dict[str, float | None]]:
    """Return the resources of Slurm jobs by their ids, with the keys `COLUMNS`."""
    sweeps = {job.sweep for job in jobs if job.job_id}
    # The id of a local job is a process's, which may be the number of another job in Slurm.
    own = {each for each in sweeps if read_sweep(each)[0].get("executor") == "slurm"}
    ends = job_ends([job.job_id for job in jobs if job.job_id and job.sweep in own])
    return {job_id: _row(end) for job_id, end in ends.items()}


def describe_usage(usage: Mapping[str, Mapping[str, float | None]]) -> str | None:
    """Return one line on time and memory used against those asked for; None if unknown."""
    rows = [row for row in usage.values() if row["minutes"] is not None]
    if not rows:
        return None
    core_hours = sum((row["cpus"] or 0) * (row["minutes"] or 0) for row in rows) / 60
    gpu_hours = sum((row["gpus"] or 0) * (row["minutes"] or 0) for row in rows) / 60
    text = f"used: {_number(core_hours)} core-hours"
    if gpu_hours:
        text += f", {_number(gpu_hours)} GPU-hours"
    longest = max(rows, key=lambda row: row["minutes"] or 0)
    text += (
        f"; longest job {_number(longest['minutes'])} of {_number(longest['limit_minutes'])} min"
    )
    if measured := [row for row in rows if row["used_mb"]]:
        largest = max(measured, key=lambda row: row["used_mb"] or 0)
        used, asked = (largest["used_mb"] or 0) / 1024, (largest["asked_mb"] or 0) / 1024
        text += f"; most memory {used:.2g} of {asked:.3g} GB"
    return text


def _row(end: JobEnd) -> dict[str, float | None]:
    minutes = None if end.seconds is None else end.seconds / 60
    values = (end.cpus, end.gpus, minutes, end.limit_min, end.asked_mb, end.used_mb)
    return dict(zip(COLUMNS, values, strict=True))


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3g}" if value < 100 else f"{value:,.0f}"
