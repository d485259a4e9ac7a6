"""Hydra launchers that check a sweep before its submission and survive jobs that fail.

The launchers of hydra-submitit-launcher 1.2 check nothing, copy the variables of a surrounding job
into the new jobs, and wait forever for a job that ended without a result (hydra#1928,
submitit#1641).
"""

import dataclasses
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, filter_overrides, run_job, setup_globals
from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf
from hydra_plugins.hydra_submitit_launcher.submitit_launcher import BaseSubmititLauncher

from pcam_lightning.config.compose import Config
from pcam_lightning.errors import InputError
from pcam_lightning.slurm.hydra_private import SweepLoader
from pcam_lightning.slurm.job_config import JOB_VARIABLES, compose, restore
from pcam_lightning.slurm.local import parallelism, waiting_setup

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
        """Check all jobs, submit them as one array, report their folders, and wait for them.

        Returns one JobReturn per job; that of a failed job raises SystemExit on `return_value`.

        Raises:
            PreflightError: a check failed; nothing has been submitted.
        """
        from pcam_lightning.slurm.preflight import check, settle_data
        from pcam_lightning.slurm.wait import wait

        assert self.config is not None and self.hydra_context is not None
        sweep = Path(str(self.config.hydra.sweep.dir)).absolute()
        numbers = range(initial_job_idx, initial_job_idx + len(job_overrides))
        loader = SweepLoader(self.hydra_context.config_loader, self.config)
        configs = [
            compose(loader, overrides, number)
            for overrides, number in zip(job_overrides, numbers, strict=True)
        ]
        executor = _executor(self)
        if configs[0].checked.get("preflight", True):
            with _outside_of_jobs():
                check([config.checked for config in configs], self.params, executor, sweep)
            configs = settle_data(configs)
        sweep.mkdir(parents=True, exist_ok=True)
        state = Singleton.get_state()
        with _outside_of_jobs():
            jobs = executor.map_array(
                self, [config.given for config in configs], [state] * len(configs)
            )
        records = [
            {
                "number": number,
                "overrides": list(filter_overrides(overrides)),
                "folder": os.path.relpath(config.folder_of(job.job_id), sweep),
                "job_id": job.job_id,
                "log": os.path.relpath(job.paths.stderr, sweep),
            }
            for number, overrides, config, job in zip(
                numbers, job_overrides, configs, jobs, strict=True
            )
        ]
        write_sweep(sweep, str(self.config.hydra.job.name), self.cluster, records)
        return wait(sweep, records, jobs)


class LocalLauncher(CheckingLauncher):
    """A launcher that starts every run as a process on this machine."""

    cluster = "local"


class SlurmLauncher(CheckingLauncher):
    """A launcher that submits every run as a Slurm job."""

    cluster = "slurm"


def write_sweep(folder: Path, command: str, executor: str, jobs: list[dict[str, Any]]) -> None:
    """Add jobs to `sweep.json`, from which `job_states` finds the jobs of a sweep."""
    from pcam_lightning.files import write_json
    from pcam_lightning.runs.status import read_json

    path = folder / "sweep.json"
    earlier = read_json(path)["jobs"] if path.is_file() else []
    again = {job["number"] for job in jobs}
    write_json(
        path,
        {
            "command": command,
            "submitted": datetime.now().astimezone().isoformat(timespec="seconds"),
            "executor": executor,
            "jobs": [job for job in earlier if job["number"] not in again] + jobs,
        },
    )


def _executor(launcher: CheckingLauncher) -> Any:
    """Return submitit's executor with the launcher's parameters."""
    import submitit

    cluster, parameters = launcher.cluster, dict(launcher.params)
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
    if "max_num_timeout" in parameters:
        inits[f"{cluster}_max_num_timeout"] = parameters.pop("max_num_timeout")
    executor = submitit.AutoExecutor(cluster=cluster, **inits)
    if cluster == "slurm":
        # If one rank fails, the others would wait for it.
        parameters.setdefault("srun_args", ["--kill-on-bad-exit=1"])
        parameters["setup"] = [
            *parameters["setup"],
            "export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK",  # srun ignores it since Slurm 22.05
            # If the user's SBATCH_EXPORT is set, srun would hide submitit's own variables too.
            "export SLURM_EXPORT_ENV=ALL",
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
