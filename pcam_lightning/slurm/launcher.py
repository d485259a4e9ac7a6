"""Hydra launchers that check a sweep before its submission and survive jobs that fail.

The launchers of hydra-submitit-launcher 1.2 check nothing, copy the variables of a surrounding job
into the new jobs, and wait forever for a job that ended without a result (hydra#1928,
submitit#1641).
"""

import dataclasses
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, filter_overrides, run_job, setup_globals
from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf
from hydra_plugins.hydra_submitit_launcher.submitit_launcher import BaseSubmititLauncher

from pcam_lightning.config import schema
from pcam_lightning.config.compose import CONF, Config
from pcam_lightning.config.targets import mappings
from pcam_lightning.errors import InputError
from pcam_lightning.runs.snapshot import take_snapshot
from pcam_lightning.slurm.earlier_start import EarlierStart
from pcam_lightning.slurm.hydra_private import SweepLoader
from pcam_lightning.slurm.job_config import JOB_VARIABLES, JobConfig, compose, restore
from pcam_lightning.slurm.local import parallelism, waiting_setup
from pcam_lightning.slurm.submission import PlannedJob, Submission
from pcam_lightning.slurm.watch import Watch

OWN_PARAMETERS = {"detach", "retry", "snapshot", "runs_per_job"}
"""The launcher's parameters that submitit does not know."""
FAILING_SETUP = (
    """trap 'code=$?; echo "error: hydra.launcher.setup: $BASH_COMMAND: exit status $code" >&2; """
    """exit $code' ERR"""
)
"""A shell line after which a failing line ends the job. A condition or `|| true` may fail."""
SHARED_PARAMETERS = {field.name for field in dataclasses.fields(BaseQueueConf)}
"""The launcher's parameters that submitit takes without the prefix `slurm_` or `local_`."""


class CheckingLauncher(BaseSubmititLauncher):
    """A launcher that composes and checks the config of each job before it submits any."""

    cluster: str
    """submitit's name of the place where the jobs run."""

    def __call__(  # type: ignore[override]  launch() submits these arguments
        self, config: Config, singletons: dict[type, Singleton]
    ) -> JobReturn:
        """Run one job, inside the job, with the config that was submitted."""
        import submitit

        assert self.hydra_context is not None and self.task_function is not None
        Singleton.set_state(singletons)
        setup_globals()
        return run_job(
            task_function=self.task_function,
            config=restore(config, submitit.JobEnvironment().job_id),
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
            hydra_context=self.hydra_context,
        )

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Check all jobs, submit those that an earlier start has not finished, and wait for them.

        Returns one JobReturn per job; that of a failed job raises SystemExit on `return_value`.

        Raises:
            PreflightError: a check failed; nothing has been submitted.
            InputError: a parameter is wrong, or Slurm rejects the jobs.
        """
        assert self.config is not None and self.hydra_context is not None
        numbers = range(initial_job_idx, initial_job_idx + len(job_overrides))
        loader = SweepLoader(self.hydra_context.config_loader, self.config)
        configs = [
            compose(loader, overrides, number)
            for overrides, number in zip(job_overrides, numbers, strict=True)
        ]
        state = Singleton.get_state()
        words = [list(filter_overrides(overrides)) for overrides in job_overrides]

        def plan(configs: Sequence[JobConfig]) -> list[PlannedJob]:
            return [
                PlannedJob(number, each, config.folder_of, (config.given, state))
                for number, each, config in zip(numbers, words, configs, strict=True)
            ]

        return self.start(configs, plan, self)

    def start(
        self,
        configs: Sequence[JobConfig],
        plan: Callable[[Sequence[JobConfig]], Sequence[PlannedJob]],
        function: Callable[..., JobReturn],
    ) -> Sequence[JobReturn]:
        """Check configs, and submit the jobs that `plan` makes of the checked configs.

        Args:
            configs: the configs to check.
            plan: returns the jobs for the configs, in which the data's folder is settled.
            function: the function that each job calls.
        """
        from pcam_lightning.slurm.preflight import check, settle_data
        from pcam_lightning.slurm.wait import leave, wait

        assert self.config is not None
        sweep = Path(str(self.config.hydra.sweep.dir)).absolute()
        parameters = schema.read_launcher(dict(self.params))
        # A search launches several times, and Slurm is not asked again for each of them.
        self._watch = watch = getattr(self, "_watch", None) or Watch(print)
        earlier = EarlierStart.of(sweep, watch)
        if configs[0].checked.get("preflight", True):
            with _outside_of_jobs():
                folders = earlier.taken_folders(parameters.get("retry"))
                if checked := [each.checked for each in configs if each.folder not in folders]:
                    check(checked, parameters, _executor(self.cluster, parameters))
            configs = settle_data(configs)
        jobs = plan(configs)
        earlier.check_same(jobs)
        chosen = [job for job in jobs if earlier.leaves_to_run(job.number, parameters.get("retry"))]
        kept = [job.number for job in jobs if job not in chosen]
        if kept:
            print(f"continued: {earlier.describe(kept)}", flush=True)
        if parameters.get("snapshot") and chosen:
            parts = mappings([config.checked for config in configs])
            targets = {part["_target_"] for _, part in parts if part.get("_target_")}
            snapshot = take_snapshot(sweep, CONF, targets)
            for note in snapshot.notes:
                print(f"warning: {note}", file=sys.stderr, flush=True)
            parameters["setup"] = [*snapshot.exports(), *(parameters.get("setup") or [])]
        submission = Submission(
            sweep,
            str(self.config.hydra.job.name),
            _executor(self.cluster, parameters),
            self.cluster,
            parameters,
            function,
            chosen,
        )
        sweep.mkdir(parents=True, exist_ok=True)
        with _outside_of_jobs():
            if parameters.get("detach"):
                submission.check_at_once()
                submission.submit_all()
                return leave(sweep, jobs, submission)
            return wait(sweep, jobs, submission, watch)


class LocalLauncher(CheckingLauncher):
    """A launcher that starts every run as a process on this machine."""

    cluster = "local"


class SlurmLauncher(CheckingLauncher):
    """A launcher that submits every run as a Slurm job."""

    cluster = "slurm"


def _executor(cluster: str, given: Mapping[str, Any]) -> Any:
    """Return submitit's executor with a launcher's parameters."""
    import submitit

    parameters = {key: value for key, value in given.items() if key not in OWN_PARAMETERS}
    if cluster == "slurm" and not shutil.which("sbatch"):
        raise InputError(
            "hydra/launcher: this machine has no sbatch; expected a login node of a Slurm cluster, "
            "or hydra/launcher=submitit_local"
        )
    inits = {"folder": parameters.pop("submitit_folder")}
    if cluster == "local":
        setup = waiting_setup(inits["folder"], parallelism(parameters))
        parameters["setup"] = [*(parameters.get("setup") or []), setup]
        parameters.pop("array_parallelism", None)
    for name in ("max_num_timeout", "python"):
        if (value := parameters.pop(name, None)) is not None:
            inits[f"{cluster}_{name}"] = value
    executor = submitit.AutoExecutor(cluster=cluster, **inits)
    if cluster == "slurm":
        # If one rank fails, the others would wait for it.
        parameters.setdefault("srun_args", ["--kill-on-bad-exit=1"])
        parameters["setup"] = [
            "export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK",  # srun ignores it since Slurm 22.05
            # If the user's SBATCH_EXPORT is set, srun would hide submitit's own variables too.
            "export SLURM_EXPORT_ENV=ALL",
            FAILING_SETUP,
            *(parameters.get("setup") or []),
            "trap - ERR",
        ]
    executor.update_parameters(
        **{
            key if key in SHARED_PARAMETERS else f"{cluster}_{key}": value
            for key, value in parameters.items()
            if value is not None
        }
    )
    return executor


@contextmanager
def _outside_of_jobs() -> Iterator[None]:
    """Hide the variables of the Slurm job that this process may itself run in."""
    hidden = {
        name: os.environ.pop(name)
        for name in list(os.environ)
        if name.startswith(JOB_VARIABLES) and name != "SLURM_CONF"
    }
    try:
        yield
    finally:
        os.environ.update(hidden)
