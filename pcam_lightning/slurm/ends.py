"""Ends of Slurm jobs: the state, exit code and resources of jobs that have left the queue.

The controller remembers a job for some minutes (`MinJobAge`); the accounting database, where a
cluster has one, remembers it for months and knows the memory used.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pcam_lightning.slurm.queue import ask

MOST_QUERIES = 4
"""Largest number of arrays that are asked for one by one; for more, all jobs are listed."""
FIELDS = (
    *("JobID", "State", "ExitCode", "ElapsedRaw", "TimelimitRaw", "ReqMem", "MaxRSS"),
    *("AllocCPUS", "AllocTRES", "NodeList"),
)
UNITS = {"K": 1 / 1024, "M": 1.0, "G": 1024.0, "T": 1024.0**2}


@dataclass(frozen=True)
class JobEnd:
    """A job as Slurm remembers it; unknown facts are None.

    Attributes:
        state: Slurm's word, such as TIMEOUT; PENDING or RUNNING if the job has not ended.
        exit_code: exit status of the job's script.
        signal: signal that ended the script; 0 for none.
        restarts: number of times that Slurm has started the job again.
        seconds: time that the job has run since its last start.
        limit_min: time limit in minutes.
        asked_mb: memory asked for on each node, in MiB.
        used_mb: largest memory of one process of the job, in MiB.
        cpus: number of CPU cores allocated.
        gpus: number of GPUs allocated.
        node: nodes of the job.
    """

    state: str
    exit_code: int | None = None
    signal: int = 0
    restarts: int = 0
    seconds: float | None = None
    limit_min: float | None = None
    asked_mb: float | None = None
    used_mb: float | None = None
    cpus: int | None = None
    gpus: int = 0
    node: str | None = None


def job_ends(job_ids: Sequence[str]) -> dict[str, JobEnd]:
    """Return the jobs that Slurm remembers, by submitit's id.

    Facts of the accounting database complete those of the controller.
    """
    if not job_ids:
        return {}
    known, accounted = _controller(job_ids), _accounting(job_ids)
    for job, end in accounted.items():
        # The database lags a few seconds behind the controller.
        facts = vars(end) | {k: v for k, v in vars(known.get(job, end)).items() if v is not None}
        known[job] = JobEnd(**facts)
    return {job: known[job] for job in job_ids if job in known}


def _controller(job_ids: Iterable[str]) -> dict[str, JobEnd]:
    arrays = sorted({job.partition("_")[0] for job in job_ids})
    show = ("scontrol", "--oneliner", "show", "job")
    queries = [(*show, array) for array in arrays] if len(arrays) <= MOST_QUERIES else [show]
    found = {}
    for query in queries:
        for line in (ask(*query) or "").splitlines():
            facts = dict(word.split("=", 1) for word in line.split() if "=" in word)
            if "JobState" not in facts or "JobId" not in facts:
                continue
            end = _shown(facts)
            for job in _ids(facts):
                found.setdefault(job, end)
    return found


def _ids(facts: Mapping[str, str]) -> Iterable[str]:
    """Yield submitit's ids of a job; tasks of an array that wait together share one record."""
    array, tasks = facts.get("ArrayJobId"), facts.get("ArrayTaskId")
    if array is None or tasks is None:
        yield facts["JobId"]
        return
    for part in tasks.partition("%")[0].split(","):
        first, _, last = part.partition("-")
        if first.isdecimal() and (not last or last.isdecimal()):
            yield from (f"{array}_{task}" for task in range(int(first), int(last or first) + 1))


def _shown(facts: Mapping[str, str]) -> JobEnd:
    code, signal = _exit_code(facts.get("ExitCode"))
    asked = _megabytes(facts.get("MinMemoryNode"))
    # Slurm 23.02 has replaced TRES by ReqTRES and AllocTRES.
    tres = ",".join(facts.get(key, "") for key in ("ReqTRES", "AllocTRES", "TRES"))
    return JobEnd(
        state=facts["JobState"],
        exit_code=code,
        signal=signal,
        restarts=int(facts["Restarts"]) if facts.get("Restarts", "").isdecimal() else 0,
        seconds=seconds_of(facts.get("RunTime")),
        limit_min=(limit := seconds_of(facts.get("TimeLimit"))) and limit / 60,
        asked_mb=asked or _megabytes(_tres(tres, "mem")),
        cpus=int(facts["NumCPUs"]) if facts.get("NumCPUs", "").isdecimal() else None,
        gpus=int(_tres(tres, "gres/gpu") or 0),
        node=facts.get("NodeList") if facts.get("NodeList") not in ("(null)", "") else None,
    )


def _accounting(job_ids: Sequence[str]) -> dict[str, JobEnd]:
    # --duplicates would list each start of a requeued job.
    words = ("--noheader", "--parsable2", f"--jobs={','.join(job_ids)}")
    listed = ask("sacct", *words, f"--format={','.join(FIELDS)}")
    found: dict[str, dict[str, Any]] = {}
    for line in (listed or "").splitlines():
        values = line.split("|")
        if len(values) != len(FIELDS):
            continue
        row = dict(zip(FIELDS, values, strict=True))
        job, _, step = row["JobID"].partition(".")
        if step:  # memory is accounted for by step
            used = _megabytes(row["MaxRSS"])
            if used and job in found:
                found[job]["used_mb"] = max(used, found[job]["used_mb"] or 0)
            continue
        code, signal = _exit_code(row["ExitCode"])
        found[job] = {
            "state": row["State"].partition(" ")[0],  # "CANCELLED by 1000"
            "exit_code": code,
            "signal": signal,
            "restarts": 0,  # a field that sacct has from Slurm 23.02 on
            "seconds": float(row["ElapsedRaw"]) if row["ElapsedRaw"].isdecimal() else None,
            "limit_min": float(row["TimelimitRaw"]) if row["TimelimitRaw"].isdecimal() else None,
            "asked_mb": _megabytes(row["ReqMem"]),
            "used_mb": None,
            "cpus": int(row["AllocCPUS"]) if row["AllocCPUS"].isdecimal() else None,
            "gpus": int(_tres(row["AllocTRES"], "gres/gpu") or 0),
            "node": row["NodeList"] if row["NodeList"] not in ("None assigned", "") else None,
        }
    return {job: JobEnd(**facts) for job, facts in found.items()}


def _exit_code(text: str | None) -> tuple[int | None, int]:
    found = re.fullmatch(r"(\d+):(\d+)", text or "")
    if found is None:
        return None, 0
    code, signal = int(found[1]), int(found[2])
    # The script's shell reports the signal that ended srun as 128 + signal.
    return (code, signal or (code - 128 if 128 < code < 160 else 0))


def seconds_of(text: str | None) -> float | None:
    """Return the seconds of Slurm's `days-hours:minutes:seconds`; None for no limit."""
    found = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", text or "")
    if found is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return 60.0 * (60 * (24 * days + hours) + minutes) + seconds


def _megabytes(text: str | None) -> float | None:
    found = re.fullmatch(r"([\d.]+)([KMGT])[nc]?", text or "")
    return None if found is None else float(found[1]) * UNITS[found[2]]


def _tres(text: str, name: str) -> str | None:
    """Return a value of a list such as `cpu=4,mem=16G,gres/gpu=1`."""
    return dict(part.split("=", 1) for part in text.split(",") if "=" in part).get(name)
