"""The earlier start of a sweep in the same folder: which jobs are left to run."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from pcam_lightning.errors import InputError
from pcam_lightning.slurm.jobs import job_states
from pcam_lightning.slurm.submission import PlannedJob
from pcam_lightning.slurm.watch import Watch
from pcam_lightning.sweeps.jobs import JobState, count_states


@dataclass(frozen=True)
class EarlierStart:
    """The jobs that a sweep's folder holds from an earlier start.

    Attributes:
        sweep: folder of the sweep.
        jobs: state of each job by its number; empty without an earlier start.
    """

    sweep: Path
    jobs: dict[int, JobState]

    @classmethod
    def of(cls, sweep: Path, watch: Watch | None = None) -> EarlierStart:
        """Return the earlier start in a sweep's folder; Slurm is asked now, or by a watch.

        Raises:
            InputError: Slurm does not answer.
        """
        if not (sweep / "sweep.json").is_file():
            return cls(sweep, {})
        ask, look_up = (watch.queued_jobs, watch.job_ends) if watch else (None, None)
        states = job_states(sweep, ask, look_up)
        if unknown := [job for job in states if job.state == "unknown"]:
            raise InputError(
                f"hydra.sweep.dir={sweep}: the state of {len(unknown)} jobs of an earlier start is "
                f"unknown ({unknown[0].error}); expected an answer, or another folder"
            )
        return cls(sweep, {job.number: job for job in states})

    def leaves_to_run(self, number: int, retry: Collection[str] | None = None) -> bool:
        """Return True for a job that is missing or has ended without a result.

        Args:
            number: number of the job.
            retry: states to run again; None for all of them.
        """
        job = self.jobs.get(number)
        if job is None:
            return retry is None or "missing" in retry
        if job.state == "finished" or not job.has_ended:
            return False
        return retry is None or job.state in retry

    def taken_folders(self, retry: Collection[str] | None = None) -> set[Path]:
        """Return the run folders of jobs that have not ended, or are not to run again."""
        return {
            job.folder
            for number, job in self.jobs.items()
            if job.state != "finished" and not self.leaves_to_run(number, retry)
        }

    def check_same(self, jobs: Sequence[PlannedJob]) -> None:
        """Raise `InputError` if a job has the number of another job of the earlier start."""
        for job in jobs:
            before = self.jobs.get(job.number)
            # A job that draws its own settings has no overrides yet.
            if before is None or not before.overrides or not job.overrides:
                continue
            if list(before.overrides) != list(job.overrides):
                raise InputError(
                    f"hydra.sweep.dir={self.sweep}: job {job.number} was "
                    f"{' '.join(before.overrides)}, now {' '.join(job.overrides)}; expected the "
                    "same sweep to continue, or another folder"
                )

    def describe(self, numbers: Sequence[int]) -> str:
        """Return a text on the jobs that are not submitted again, such as `3 finished`."""
        states = [self.jobs[n].state if n in self.jobs else "missing" for n in numbers]
        return f"{count_states(states)}; these jobs are left as they are"
