"""The config of a sweep's job, composed and resolved when the job is submitted."""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.resolvers import oc

from pcam_lightning.config.compose import Config, resolved, run_folder
from pcam_lightning.errors import InputError
from pcam_lightning.slurm.hydra_private import SweepLoader

JOB_VARIABLES = ("SLURM_", "SLURMD_", "SRUN_", "SUBMITIT_")
"""Prefixes of the environment variables that Slurm and submitit set in a job."""
JOB_DEPENDENT = re.compile("|".join((r"job\.id", *JOB_VARIABLES)))
"""A pattern that every config with a job-dependent value contains."""


@dataclass(frozen=True)
class JobConfig:
    """The config of one job, as plain containers, with Hydra's own part under `hydra`.

    Attributes:
        checked: the config with every value resolved; placeholders replace the job's id and the
            job's environment variables, which do not exist yet. Under `hydra` only the values that
            a job starts with are resolved.
        given: the same config, but values that depend on the job stay interpolations. The job
            resolves these and nothing else, so that it runs with the config that was checked.
    """

    checked: Config
    given: Config

    @property
    def folder(self) -> Path:
        """The run's folder, with a placeholder for the job's id."""
        return run_folder(self.checked)

    def folder_of(self, job_id: str) -> Path:
        """Return the run's folder once the job's id is known."""
        if self.given["hydra"]["sweep"] == self.checked["hydra"]["sweep"]:
            return self.folder  # the common case, far faster for 100 jobs
        cfg = restore(self.given, job_id)
        with _hydra_config(cfg):
            return run_folder(cfg)


def compose(sweep: SweepLoader, overrides: Sequence[str], number: int) -> JobConfig:
    """Compose and resolve the config of job `number` of a sweep.

    Raises:
        HydraException, OmegaConfBaseException, InputError: the config does not exist or its
            `hydra.sweep.subdir` names no folder inside the sweep.
    """
    cfg = sweep.load(overrides)
    with open_dict(cfg.hydra):
        cfg.hydra.job.num = number
        # The sweep's own folder, even if its name contains a key that the sweep varies.
        cfg.hydra.sweep.dir = os.path.abspath(sweep.master.hydra.sweep.dir)
    interpolated = cast(Config, OmegaConf.to_container(cfg))
    one, two = str(number), str(number + 1)
    with _in_job(cfg, job_id=one, variables=one):
        checked = other = _resolved(cfg)
    folder = run_folder(checked)
    if not os.path.normpath(folder).startswith(f"{checked['hydra']['sweep']['dir']}{os.sep}"):
        raise _bad_subdir(interpolated, "expected a folder inside hydra.sweep.dir")
    if JOB_DEPENDENT.search(repr(interpolated)):
        with _in_job(cfg, job_id=two, variables=two):
            other = _resolved(cfg)
        with _in_job(cfg, job_id=one, variables=two):
            if run_folder(cfg) != folder:
                reason = "depends on a variable of the job; expected one such as ${hydra.job.num}"
                raise _bad_subdir(interpolated, reason)
    return JobConfig(checked, _keep_interpolations(interpolated, checked, other))


def restore(given: Config, job_id: str) -> DictConfig:
    """Return `given` as the typed config that Hydra runs, with the job's id."""
    hydra = OmegaConf.structured(HydraConf)
    OmegaConf.set_struct(hydra, False)
    del hydra["defaults"]  # as Hydra does after composing
    hydra.merge_with(given["hydra"])
    hydra.job.id = job_id
    cfg = OmegaConf.create(given | {"hydra": hydra})
    OmegaConf.set_struct(cfg, True)
    return cfg


def _bad_subdir(interpolated: Any, reason: str) -> InputError:
    return InputError(f"hydra.sweep.subdir={interpolated['hydra']['sweep']['subdir']}: {reason}")


def _resolved(cfg: DictConfig) -> Config:
    """Resolve a config, and the values under `hydra` that a job starts with.

    Other values under `hydra`, such as the overrides as typed, may contain unresolvable text.
    """
    own = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    OmegaConf.copy_cache(from_config=cfg, to_config=own)
    values = resolved(own)
    OmegaConf.copy_cache(from_config=own, to_config=cfg)  # ${now:} resolves once
    hydra = cast(Config, OmegaConf.to_container(cfg.hydra))
    for key in ("sweep", "job_logging"):
        hydra[key] = OmegaConf.to_container(cfg.hydra[key], resolve=True)
    hydra["job"]["env_set"] = OmegaConf.to_container(cfg.hydra.job.env_set, resolve=True)
    return values | {"hydra": hydra}


@contextmanager
def _in_job(cfg: DictConfig, job_id: str, variables: str) -> Iterator[None]:
    """Resolve a config as in a job with this id; every job variable has the value `variables`."""
    with read_write(cfg), open_dict(cfg.hydra), _job_variables(variables):
        cfg.hydra.job.id = job_id
        with _hydra_config(cfg):
            cfg.hydra.runtime.output_dir = str(run_folder(cfg))
            published: Any = HydraConfig.get()  # a copy
            with read_write(published), open_dict(published):
                published.runtime.output_dir = cfg.hydra.runtime.output_dir
            yield


@contextmanager
def _hydra_config(cfg: DictConfig) -> Iterator[None]:
    """Resolve `${hydra:...}` from a config."""
    before = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(cfg)
    OmegaConf.set_readonly(cfg.hydra, False)
    try:
        yield
    finally:
        HydraConfig.instance().cfg = before


@contextmanager
def _job_variables(value: str) -> Iterator[None]:
    """Resolve `${oc.env:...}` of every job variable to one value."""

    def env(key: str, *default: Any) -> Any:
        return value if key.startswith(JOB_VARIABLES) else oc.env(key, *default)

    OmegaConf.register_new_resolver("oc.env", env, replace=True)
    try:
        yield
    finally:
        OmegaConf.register_new_resolver("oc.env", oc.env, replace=True)


def _keep_interpolations(interpolated: Any, value: Any, other: Any) -> Any:
    """Return a resolved config, with its interpolations where two resolutions differ."""
    same = value is other or value == other  # `is`: NaN != NaN
    if isinstance(value, dict) and (same or isinstance(interpolated, dict)):
        texts = interpolated if isinstance(interpolated, dict) else {}
        return {
            key: _keep_interpolations(texts.get(key), each, other[key])
            for key, each in value.items()
        }
    if isinstance(value, list) and (same or isinstance(interpolated, list)):
        texts = interpolated if isinstance(interpolated, list) else [None] * len(value)
        return [_keep_interpolations(*each) for each in zip(texts, value, other, strict=True)]
    if not same or value == interpolated:
        return interpolated
    # OmegaConf would interpret the text ${...} as an interpolation.
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", value) if isinstance(value, str) else value
