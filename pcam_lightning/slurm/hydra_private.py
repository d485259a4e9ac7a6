"""Names that Hydra does not publish, and the code that depends on their behavior.

Checked with hydra-core 1.3.8; pyproject.toml excludes 1.4. `tests/slurm/test_private.py` fails if a
name is gone, `tests/slurm/test_job_config.py` if one behaves differently.
"""

import copy
import re
from collections.abc import Sequence
from typing import Any, Self

from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra._internal.config_repository import CachingConfigRepository
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, open_dict

BASIC_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
"""Hydra's default sweeper. Hydra executes its module again when it discovers plugins, so the class
must not be imported before."""


class SweepLoader:
    """A faster composer of a sweep's jobs, whose configs are equal to those that Hydra composes.

    Hydra reads all files again for each job. Here each file is read once, so an edit during the
    submission changes no job. Jobs with the same group choices share one composition; overrides of
    single values, such as `seed=1`, are then applied to a copy of it.

    Args:
        loader: Hydra's.
        master: the config of the sweep as a whole.
    """

    def __init__(self, loader: ConfigLoader, master: DictConfig) -> None:
        self.master = master
        self._loader: Any = copy.copy(loader)
        self._loader.repository = _FilesReadOnce(self._loader.repository)
        self._compositions: dict[tuple[str, ...], DictConfig] = {}

    def load(self, overrides: Sequence[str]) -> DictConfig:
        """Return the config that Hydra's `load_sweep_config` returns, or raise its exceptions."""
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        values = [override for override in parsed if self._is_value(override)]
        shared = tuple(str(each.input_line) for each in parsed if not self._is_value(each))
        try:
            if shared not in self._compositions:
                self._compositions[shared] = self._load(shared)
            cfg = copy.deepcopy(self._compositions[shared])
            _apply(parsed, values, cfg)
        except Exception:  # of which Hydra's own names the override at fault
            return self._load(overrides)
        return cfg

    def _load(self, overrides: Sequence[str]) -> DictConfig:
        return self._loader.load_sweep_config(self.master, list(overrides))

    def _is_value(self, override: Override) -> bool:
        """Return whether an override sets a single value outside of Hydra's own config."""
        key = override.key_or_group
        return not (
            override.is_sweep_override()
            or override.package is not None
            or re.match(r"hydra\b", key)
            or self._loader.repository.group_exists(key)
        )


def _apply(overrides: Sequence[Override], values: Sequence[Override], cfg: DictConfig) -> None:
    """Apply `values` to a config composed without them, and list all `overrides` in it."""
    ConfigLoaderImpl._apply_overrides_to_config(list(values), cfg)
    task = [override for override in overrides if not override.is_hydra_override()]
    names = cfg.hydra.job.config.override_dirname
    with open_dict(cfg.hydra):
        cfg.hydra.overrides.task = [override.input_line for override in task]
        cfg.hydra.job.override_dirname = get_overrides_dirname(
            overrides=task,
            kv_sep=names.kv_sep,
            item_sep=names.item_sep,
            exclude_keys=names.exclude_keys,
        )


class _FilesReadOnce(CachingConfigRepository):
    """A repository that reads each file at most once, for any number of configs."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self  # Hydra copies the loader's repository for each config that it composes

    def load_config(self, config_path: str) -> ConfigResult | None:
        return copy.deepcopy(super().load_config(config_path))
