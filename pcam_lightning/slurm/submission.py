"""Submission of a sweep's jobs to submitit, in as many arrays as Slurm's limits demand."""

from __future__ import annotations

import io
import os
import shutil
import socket
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pcam_lightning.errors import InputError, one_line
from pcam_lightning.files import write_json
from pcam_lightning.runs.files import read_json
from pcam_lightning.runs.process import process_mark
from pcam_lightning.slurm import limits
from pcam_lightning.slurm.packed import PackedRuns
from pcam_lightning.slurm.usage import describe_request
from pcam_lightning.sweeps.jobs import DEATHS, JobState

NO_LIMIT = 1_000_000_000


@dataclass(frozen=True)
class PlannedJob:
    """A job of a sweep before its submission.

    Attributes:
        number: number in the sweep.
        overrides: overrides of this job, for `sweep.json`.
        folder_of: returns the run folder for the job's id.
        arguments: arguments of the function that the job calls.
    """

    number: int
    overrides: Sequence[str]
    folder_of: Callable[[str], Path]
    arguments: tuple[Any, ...]


class Submission:
    """Jobs of a sweep that are submitted now, or as soon as Slurm accepts more.

    All of them are listed in `sweep.json` from the first submission on.

    Args:
        sweep: folder of the sweep.
        command: name of the command that the jobs run.
        executor: submitit's executor.
        cluster: `slurm` or `local`.
        parameters: the launcher's parameters.
        function: the function that each job calls.
        jobs: the jobs to submit.
    """

    def __init__(
        self,
        sweep: Path,
        command: str,
        executor: Any,
        cluster: str,
        parameters: dict[str, Any],
        function: Callable[..., Any],
        jobs: Sequence[PlannedJob],
    ) -> None:
        self.sweep, self.command, self.executor, self.cluster = sweep, command, executor, cluster
        self.function, self.left = function, list(jobs)
        self.parallel = parameters.get("array_parallelism") or NO_LIMIT
        self.submitted = 0
        self.runs_per_job = parameters.get("runs_per_job") or 1
        count = -(-len(jobs) // self.runs_per_job)
        self.cost = describe_request(parameters, count) if cluster == "slurm" else None
        self._chunk = self._limit = self._accepted = NO_LIMIT
        if cluster == "slurm":
            self._chunk = limits.largest_array() or NO_LIMIT
            self._limit = limits.most_queued(parameters.get("account")) or NO_LIMIT

    def check_at_once(self) -> None:
        """Raise `InputError` if the jobs cannot all be in the queue at the same time."""
        if len(self.left) > self._limit * self.runs_per_job:
            raise InputError(
                f"hydra.launcher.detach=true: {len(self.left)} jobs, and Slurm accepts "
                f"{self._limit} of a user at a time; expected a command that stays to submit the "
                "rest (detach=false), or fewer jobs"
            )

    def submit_next(self, active: int, queued: int) -> None:
        """Submit as many jobs as there is room for.

        Args:
            active: number of this sweep's runs that have not ended.
            queued: number of all jobs of this user in the queue, at the last look.

        Raises:
            InputError: Slurm accepts no job though none of this sweep is in the queue.
        """
        active = -(-active // self.runs_per_job)
        if self.submitted and active > min(self._limit, self._accepted, self.parallel) / 2:
            return
        left = -(-len(self.left) // self.runs_per_job)
        room = min(self._limit - max(active, queued), self._chunk, left)
        while room > 0:
            try:
                return self._submit(room, max(1, self.parallel - active))
            except _RejectedError as error:
                if room == 1 or not limits.SUBMIT_LIMIT.search(str(error)):
                    if active and limits.SUBMIT_LIMIT.search(str(error)):
                        # Until half of them have ended; sbatch is not tried at each look.
                        self._accepted, self._chunk = active, max(1, active // 2)
                        return
                    raise self._rejected(str(error)) from None
                room = self._chunk = room // 2
        if not active and not self.submitted:
            raise self._rejected(f"{queued} jobs of yours are queued, the limit is {self._limit}")

    def submit_all(self) -> None:
        """Submit all jobs, in several arrays if one cannot hold them."""
        arrays = -(-len(self.left) // (self._chunk * self.runs_per_job))
        while self.left:
            try:
                self._submit(self._chunk, max(1, self.parallel // arrays))
            except _RejectedError as error:
                raise self._rejected(str(error)) from None

    def _submit(self, count: int, parallel: int) -> None:
        """Submit at most `count` jobs as one array, of which `parallel` may run at a time."""
        size = self.runs_per_job
        jobs = self.left[: count * size]
        packs = [jobs[start : start + size] for start in range(0, len(jobs), size)]
        if self.cluster == "slurm":
            self.executor.update_parameters(slurm_array_parallelism=parallel)
        now = datetime.now().astimezone().isoformat(timespec="milliseconds")
        folders = _listed(self.sweep / ".submitit")
        try:
            with redirect_stderr(io.StringIO()):  # submitit repeats sbatch's message there
                submitted = self._map(packs)
        except Exception as error:
            for path in _listed(self.sweep / ".submitit") - folders:
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()
            raise _RejectedError(_message(error)) from None
        self.submitted += len(jobs)
        self.left = self.left[len(jobs) :]
        records = [
            self._record(now, job, made.job_id, self._log(made, job))
            for pack, made in zip(packs, submitted, strict=True)
            for job in pack
        ]
        records += [self._record(None, job, None, None) for job in self.left]
        write_sweep(self.sweep, self.command, self.cluster, records)

    def _map(self, packs: Sequence[Sequence[PlannedJob]]) -> Sequence[Any]:
        if self.runs_per_job == 1:
            arguments = [pack[0].arguments for pack in packs]
            return self.executor.map_array(self.function, *zip(*arguments, strict=True))
        # A batch is one array.
        with self.executor.batch():
            return [
                self.executor.submit(
                    PackedRuns(self.function, tuple(f"run_{job.number}" for job in pack)),
                    [job.arguments for job in pack],
                )
                for pack in packs
            ]

    def _log(self, made: Any, job: PlannedJob) -> str:
        path = made.paths.stderr
        if self.runs_per_job > 1:
            path = path.with_name(f"{made.job_id}_run_{job.number}_log.err")
        return os.path.relpath(path, self.sweep)

    def _record(
        self, now: str | None, job: PlannedJob, job_id: str | None, log: str | None
    ) -> dict[str, Any]:
        return {
            "number": job.number,
            "overrides": list(job.overrides),
            "folder": os.path.relpath(job.folder_of(job_id or "unknown"), self.sweep),
            "job_id": job_id,
            "log": log,
            "submitted": now,
        }

    def _rejected(self, message: str) -> InputError:
        text = f"Slurm rejects the jobs: {message}"
        if self.submitted:
            text += (
                f"; {self.submitted} jobs are submitted, {len(self.left)} are not: repeat the "
                "command with the same hydra.sweep.dir to continue"
            )
        return InputError(text)


class _RejectedError(Exception):
    """A submission that Slurm rejected; nothing of it is queued."""


def write_sweep(folder: Path, command: str, executor: str, jobs: list[dict[str, Any]]) -> None:
    """Add jobs to `sweep.json`, from which `job_states` finds the jobs of a sweep."""
    path = folder / "sweep.json"
    earlier = read_json(path)["jobs"] if path.is_file() else []
    again = {job["number"] for job in jobs}
    kept = [job for job in earlier if job["number"] not in again]
    write_json(
        path,
        {
            "command": command,
            "submitted": datetime.now().astimezone().isoformat(timespec="seconds"),
            "executor": executor,
            "submitter": {
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "process": process_mark(os.getpid()),
            },
            "jobs": sorted(kept + jobs, key=lambda job: job["number"]),
        },
    )


def record_ends(folder: Path, jobs: Sequence[JobState]) -> None:
    """Add the causes of ends to `sweep.json`, because Slurm forgets them."""
    ends = {
        job.number: {"state": job.state, "error": job.error} for job in jobs if job.state in DEATHS
    }
    if ends:
        path = folder / "sweep.json"
        content = read_json(path)
        for job in content["jobs"]:
            if job["number"] in ends:
                job["end"] = ends[job["number"]]
        write_json(path, content)


def _listed(folder: Path) -> set[Path]:
    return set(folder.iterdir()) if folder.is_dir() else set()


def _message(error: Exception) -> str:
    """Return sbatch's own words from submitit's exception."""
    lines = [line for line in str(error).splitlines() if "error: " in line]
    words = [line.split("error: ")[-1].strip() for line in lines]
    return one_line("; ".join(dict.fromkeys(words)) or error)
