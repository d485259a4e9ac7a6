"""Hydra's submitit launchers, made to check before they submit and to survive jobs that fail.

The stock ones (1.2) submit whatever they are given, copy the variables of a surrounding job into
the new ones, and wait for ever for a job that ended without a result (hydra#1928, submitit#1641).
"""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, filter_overrides, run_job, setup_globals
from hydra_plugins.hydra_submitit_launcher import submitit_launcher

from pcam_lightning.config.compose import Config
from pcam_lightning.errors import InputError
from pcam_lightning.slurm.job_config import JOB_VARIABLES, compose, restore, snapshot
from pcam_lightning.slurm.local import parallelism, waiting_setup


class CheckingLauncher(submitit_launcher.BaseSubmititLauncher):
    """A launcher that composes the config of each job, checks it, and hands it to the job."""

    def __call__(  # type: ignore[override]  its arguments are those that launch submits
        self, config: Config, singletons: dict[type, Singleton]
    ) -> JobReturn:
        """Run a job, in the job, with the config of its submission; `conf/` is not read again."""
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
        """Check, submit as one array, say where everything is, and wait.

        Returns one JobReturn a job; one whose job failed raises SystemExit when asked for its
        value.

        Raises:
            PreflightError: something would fail; nothing has been submitted.
        """
        from pcam_lightning.slurm.preflight import check, settle_data
        from pcam_lightning.slurm.wait import wait

        assert self.config is not None and self.hydra_context is not None
        sweep = Path(str(self.config.hydra.sweep.dir)).absolute()
        numbers = range(initial_job_idx, initial_job_idx + len(job_overrides))
        loader = snapshot(self.hydra_context.config_loader)
        configs = [
            compose(loader, self.config, overrides, number)
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
        write_sweep(sweep, str(self.config.hydra.job.name), self._EXECUTOR, records)
        return wait(sweep, records, jobs)


class LocalLauncher(CheckingLauncher):
    """Every run a process of this machine."""

    _EXECUTOR = "local"


class SlurmLauncher(CheckingLauncher):
    """Every run a Slurm job."""

    _EXECUTOR = "slurm"


def write_sweep(folder: Path, command: str, executor: str, jobs: list[dict[str, Any]]) -> None:
    """Add jobs to `sweep.json`, by which a sweep is found again while it runs and afterwards."""
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
    """submitit's executor with the launcher's parameters, named as it names them."""
    import submitit

    kind, own = launcher._EXECUTOR, dict(launcher.params)
    if kind == "slurm" and not shutil.which("sbatch"):
        raise InputError(
            "hydra/launcher: no sbatch on this machine, expected one that can submit to Slurm, or "
            "hydra/launcher=submitit_local"
        )
    inits = {"folder": own.pop("submitit_folder")}
    if kind == "local":
        places = parallelism(own)
        own["setup"] = [*(own.get("setup") or []), waiting_setup(inits["folder"], places)]
        own.pop("array_parallelism", None)
    if "max_num_timeout" in own:
        inits[f"{kind}_max_num_timeout"] = own.pop("max_num_timeout")
    executor = submitit.AutoExecutor(cluster=kind, **inits)
    shared = submitit.AutoExecutor._typed_parameters()
    if kind == "slurm":
        # Where one rank fails, the others would wait for it.
        own.setdefault("srun_args", ["--kill-on-bad-exit=1"])
        # Since Slurm 22.05 srun does not look at what the job was given.
        own["setup"] = [*own["setup"], "export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK"]
        # Where sbatch exports less (SBATCH_EXPORT), srun would keep submitit's variables back too.
        own["setup"] += ["export SLURM_EXPORT_ENV=ALL"]
    given = {key: value for key, value in own.items() if value is not None}
    executor.update_parameters(
        **{key if key in shared else f"{kind}_{key}": value for key, value in given.items()}
    )
    return executor


@contextmanager
def _outside_of_jobs() -> Iterator[None]:
    """Without the variables of the job that this process may itself be part of."""
    kept_out = {
        name: os.environ.pop(name)
        for name in list(os.environ)
        if name.startswith(JOB_VARIABLES) and name != "SLURM_CONF"
    }
    try:
        yield
    finally:
        os.environ.update(kept_out)
