"""How Hydra composes the jobs of a sweep, without doing the same work for each of them."""

import os
import pickle
from functools import cache

from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra._internal.config_repository import IConfigRepository
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf


class SweepLoader(ConfigLoaderImpl):
    """Hydra's loader, but jobs that choose the same groups are composed once.

    Hydra (1.3) reads and merges the whole tree twice a job, to check it and to launch it: half a
    minute for a hundred. Such jobs differ in values only, which are set in copies of one config.
    """

    def load_sweep_config(
        self, master_config: DictConfig, sweep_overrides: list[str]
    ) -> DictConfig:
        """Equal to what Hydra's own returns; errors as from there."""
        parsed = OverridesParser.create().parse_overrides(sweep_overrides)
        # A job has one config to compose, and Hydra has read its plugins anew there, so that not
        # all of its classes can be pickled.
        in_job = "SUBMITIT_EXECUTOR" in os.environ
        if in_job or any(override.is_hydra_override() for override in parsed):
            return super().load_sweep_config(master_config, sweep_overrides)
        self.validate_sweep_overrides_legal(parsed, run_mode=RunMode.RUN, from_shell=True)
        of_all = master_config.hydra.job.config_name, tuple(master_config.hydra.overrides.hydra)
        groups = _repository(self, *of_all)
        values = [
            override
            for override in parsed
            if not groups.group_exists(override.key_or_group) or isinstance(override.value(), dict)
        ]
        choices = tuple(str(each.input_line) for each in parsed if each not in values)
        config: DictConfig = pickle.loads(_composed(self, *of_all, choices))
        self._apply_overrides_to_config(values, config)
        config.hydra.overrides.task = [override.input_line for override in parsed]
        job = config.hydra.job
        job.override_dirname = get_overrides_dirname(parsed, **job.config.override_dirname)
        OmegaConf.copy_cache(from_config=master_config, to_config=config)
        return config


@cache
def _repository(loader: SweepLoader, name: str, overrides: tuple[str, ...]) -> IConfigRepository:
    return loader._parse_overrides_and_create_caching_repo(name, list(overrides))[1]


@cache
def _composed(
    loader: SweepLoader, name: str, overrides: tuple[str, ...], choices: tuple[str, ...]
) -> bytes:
    # Pickled, since that copies five times as fast as deepcopy.
    return pickle.dumps(
        loader.load_configuration(name, [*overrides, *choices], run_mode=RunMode.RUN)
    )
