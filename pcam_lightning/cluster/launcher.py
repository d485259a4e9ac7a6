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
from hydra.core.utils import JobReturn, filter_overrides
from hydra_plugins.hydra_submitit_launcher import submitit_launcher
from omegaconf import OmegaConf

from pcam_lightning.cluster.local import parallelism, waiting_setup
from pcam_lightning.composition import run_folder
from pcam_lightning.errors import InputError

KEPT_OUT = ("SLURM_", "SLURMD_", "SRUN_", "SUBMITIT_")
"""Variables that would tell a job submitted from inside another that it is that one."""


class LocalLauncher(submitit_launcher.LocalLauncher):
    """Every run a process of this machine."""

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        return _launch(self, job_overrides, initial_job_idx)


class SlurmLauncher(submitit_launcher.SlurmLauncher):
    """Every run a Slurm job."""

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        return _launch(self, job_overrides, initial_job_idx)


def _launch(
    launcher: LocalLauncher | SlurmLauncher, job_overrides: Sequence[Sequence[str]], first: int
) -> Sequence[JobReturn]:
    """Check, submit as one array, say where everything is, and wait.

    Returns one JobReturn a job; one whose job failed raises SystemExit when asked for its value.

    Raises:
        PreflightError: something would fail; nothing has been submitted.
    """
    from pcam_lightning.cluster.preflight import check
    from pcam_lightning.cluster.waiting import wait

    assert launcher.config is not None
    sweep = Path(str(launcher.config.hydra.sweep.dir)).absolute()
    numbers = range(first, first + len(job_overrides))
    shown = [list(filter_overrides(overrides)) for overrides in job_overrides]
    configs = [
        _job_config(launcher, list(o), n) for o, n in zip(job_overrides, numbers, strict=True)
    ]
    executor = _executor(launcher)
    if configs[0].get("preflight", "on") == "on":
        with _outside_of_jobs():
            check(configs, launcher.params, executor, sweep)
    sweep.mkdir(parents=True, exist_ok=True)
    state = Singleton.get_state()
    arguments = [
        (list(overrides), "hydra.sweep.dir", number, f"job_id_for_{number}", state)
        for overrides, number in zip(job_overrides, numbers, strict=True)
    ]
    with _outside_of_jobs():
        jobs = executor.map_array(launcher, *zip(*arguments, strict=True))
    records = [
        {
            "number": number,
            "overrides": overrides,
            "folder": os.path.relpath(run_folder(config), sweep),
            "job_id": job.job_id,
            "log": os.path.relpath(job.paths.stderr, sweep),
        }
        for number, overrides, config, job in zip(numbers, shown, configs, jobs, strict=True)
    ]
    write_sweep(sweep, str(launcher.config.hydra.job.name), launcher._EXECUTOR, records)
    return wait(sweep, records, jobs)


def write_sweep(folder: Path, command: str, executor: str, jobs: list[dict[str, Any]]) -> None:
    """Add jobs to `sweep.json`, by which a sweep is found again while it runs and afterwards."""
    from pcam_lightning.runs.record import read_json, write_json

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


def _job_config(launcher: LocalLauncher | SlurmLauncher, overrides: list[str], number: int) -> Any:
    """What a job will compose, with its own number."""
    assert launcher.hydra_context is not None
    loader = launcher.hydra_context.config_loader
    config = loader.load_sweep_config(launcher.config, overrides)  # type: ignore[arg-type]
    OmegaConf.set_struct(config, False)
    config.hydra.job.num, config.hydra.job.id = number, "unknown"
    return config


def _executor(launcher: LocalLauncher | SlurmLauncher) -> Any:
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
        if name.startswith(KEPT_OUT) and name != "SLURM_CONF"
    }
    try:
        yield
    finally:
        os.environ.update(kept_out)
