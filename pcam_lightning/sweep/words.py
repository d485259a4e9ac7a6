"""The command line of a sweep, read from the `multirun.yaml` that Hydra wrote into its folder.

The file may come from a stranger. An override that could run code or write outside the sweep's
folder is rejected, unless the user trusts the folder.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pcam_lightning.config.override_text import hydra_text
from pcam_lightning.config.schema import ROOTS
from pcam_lightning.errors import InputError
from pcam_lightning.runs.files import read_yaml

LAUNCHERS = ("basic", "submitit_local", "submitit_slurm", "slurm_cpu", "slurm_gpu")
SAFE_KEYS = re.compile(
    r"(?:seed|compile|preflight|resume|experiment_name|experiment|sweep|debug|cluster|mode"
    r"|(?:model|optimizer|scheduler|augment)(?:\.[\w.]+)?"
    r"|trainer(?:\.(?!default_root_dir|plugins|logger|callbacks|profiler)[\w.]+)?"
    r"|data(?:\.(?!cache_dir|demo\.parent|on_missing)[\w.]+)?"
    r"|callbacks|logger"
    r"|hydra\.mode|hydra/sweeper"
    r"|hydra\.sweeper\.(?:trials|parallel|metric|startup_trials|pruner|warmup_epochs|seed|study)"
    r"|hydra\.launcher\.(?:partition|account|nodes|tasks_per_node|cpus_per_task|gpus_per_node"
    r"|mem_gb|mem_per_cpu|timeout_min|signal_delay_s|max_num_timeout|array_parallelism|qos"
    r"|constraint|exclude|gres|detach|snapshot|runs_per_job))"
)
"""Keys whose values are names, numbers and places to read from."""
DANGEROUS = re.compile(r"_target_|_partial_|_args_|\$\\*\{|[\x00-\x1f\x7f]")
"""Text of code, of an interpolation, and of a further line in a job's script."""
GROUP = re.compile(r"[a-z]+(?:/[a-z]+)?")
"""A key that can name a config group."""
NAMES = re.compile(r"[\w ,()'\"-]*")
"""Names in a config group; a path would choose a file of the stranger."""
REPLACED = ("hydra.sweep.dir", "hydra.launcher.retry")
"""Keys that each start sets anew."""


def continuation(folder: Path, typed: Sequence[str], *, trusted: bool = False) -> list[str]:
    """Return the arguments of `python` that start the sweep of a folder again.

    Args:
        folder: folder of the sweep.
        typed: overrides that replace those of the first start.
        trusted: True accepts every override of the first start.

    Raises:
        InputError: the folder holds no sweep, or an override that is not to be trusted.
    """
    path = folder / "multirun.yaml"
    if not path.is_file():
        raise InputError(
            f"continue={folder}: has no multirun.yaml, expected the folder of a sweep that "
            "--multirun has started"
        )
    hydra = _section(read_yaml(path), "hydra")
    name, config_name = (
        _section(hydra, "job").get("name"),
        _section(hydra, "job").get("config_name"),
    )
    if not isinstance(name, str) or name not in ROOTS or name == "sweep":
        raise InputError(f"{path}: hydra.job.name={name!r}, expected a command such as train")
    overrides = _section(hydra, "overrides")
    given = [*_words(overrides.get("task")), *_words(overrides.get("hydra"))]
    replaced = {_key(word) for word in typed} | {*REPLACED}
    kept = [word for word in given if _key(word) not in replaced]
    if "hydra/launcher" in replaced:  # another launcher has other parameters
        kept = [word for word in kept if not _key(word).startswith("hydra.launcher.")]
    options = _options(hydra, config_name, name)
    if not trusted:
        for word in [*kept, *options]:
            if not _is_safe(word):
                raise InputError(
                    f"{path}: {word}: an untrusted file sets this; expected trusted=true if you "
                    "wrote the sweep yourself"
                )
    words = ["-m", f"pcam_lightning.{name}", *options, "--multirun", *kept, *typed]
    return [*words, f"hydra.sweep.dir={hydra_text(str(folder))}"]


def _options(hydra: dict[str, Any], config_name: Any, name: str) -> list[str]:
    """Return Hydra's own options of the first start: a folder of configs, another root config."""
    sources = _section(hydra, "runtime").get("config_sources")
    folders = [
        str(source.get("path"))
        for source in (sources if isinstance(sources, list) else [])
        if isinstance(source, dict) and source.get("provider") == "command-line"
    ]
    options = [f"--config-dir={folder}" for folder in folders]
    return options + ([f"--config-name={config_name}"] if config_name != name else [])


def _is_safe(word: str) -> bool:
    if DANGEROUS.search(word):
        return False
    key, value = _key(word), word.partition("=")[2]
    if key == "hydra/launcher":
        return value in LAUNCHERS
    if GROUP.fullmatch(key) and not NAMES.fullmatch(value):
        return False
    return SAFE_KEYS.fullmatch(key) is not None


def _key(word: str) -> str:
    return word.partition("=")[0].lstrip("+~")


def _words(value: Any) -> list[str]:
    return [word for word in value if isinstance(word, str)] if isinstance(value, list) else []


def _section(value: Any, key: str) -> dict[str, Any]:
    part = value.get(key) if isinstance(value, dict) else None
    return part if isinstance(part, dict) else {}
