"""Conversion of the config that Hydra composed into the checked, plain config of a command."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from pcam_lightning.config import schema
from pcam_lightning.errors import InputError
from pcam_lightning.runs.resume import flatten

_PACKAGE = Path(__file__).parents[1]

CONF = next(
    (folder for folder in (_PACKAGE / "conf", _PACKAGE.parent / "conf") if folder.is_dir()),
    _PACKAGE / "conf",
)
"""Folder of the config tree: inside the package in a wheel, beside it in a checkout."""

Config = dict[str, Any]


def validated(name: str, cfg: DictConfig) -> Config:
    """Return the composed config of command `name`, resolved, as plain containers.

    Raises:
        InputError: a key is missing, or the schema rejects a value.
    """
    config = resolved(cfg)
    schema.check(name, config)
    return config


def of_command(config: Config) -> Config:
    """Return a resolved config without its section `hydra`, checked.

    Raises:
        InputError: the command's schema rejects a value.
    """
    own = {key: value for key, value in config.items() if key != "hydra"}
    schema.check(command_name(config), own)
    return own


def command_name(config: Mapping[Any, Any] | DictConfig) -> str:
    """Return the command of a config that includes `hydra`.

    A root config of a user, such as `--config-name mine`, is based on a command's config, which
    sets `hydra.job.name`.

    Raises:
        InputError: the config is based on no command.
    """
    job = config["hydra"]["job"]
    for name in (job["config_name"], job["name"]):
        if name in schema.ROOTS:
            return str(name)
    raise InputError(
        f"hydra.job.name={job['name']}: no such command; expected a root config with a command in "
        f"its defaults list: {', '.join(schema.ROOTS)}"
    )


def resolved(cfg: DictConfig) -> Config:
    """Return a composed config as plain containers; raise InputError if a key is missing."""
    # OmegaConf.missing_keys resolves every interpolation and takes ten times as long.
    for key, value in flatten(OmegaConf.to_container(cfg)):
        if value == "???":
            raise InputError(f"{key}: missing, expected {key}=VALUE")
    return cast(Config, OmegaConf.to_container(cfg, resolve=True))


def validated_in(folder: Path, cfg: DictConfig) -> Config:
    """Return the same as `validated` for a config that includes `hydra` and a run in `folder`."""
    with read_write(cfg.hydra.runtime), open_dict(cfg.hydra.runtime):
        cfg.hydra.runtime.output_dir = str(folder)  # Hydra sets it when the job begins
    before = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(cfg)
    try:
        plain = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
        return validated(command_name(cfg), plain)
    finally:
        HydraConfig.instance().cfg = before


def choice(group: str, name: str) -> Config:
    """Return the content of `conf/<group>/<name>.yaml`, a file without a defaults list.

    Raises:
        InputError: the file does not exist.
    """
    paths = {path.stem: path for path in sorted((CONF / group).glob("*.yaml"))}
    if name not in paths:
        raise InputError(f"{group}={name}: no such choice, expected one of {', '.join(paths)}")
    return cast(Config, OmegaConf.to_container(OmegaConf.load(paths[name]), resolve=True))


def run_folder(cfg: Mapping[Any, Any] | DictConfig) -> Path:
    """Return the run folder of a sweep's job from its config, which includes `hydra`."""
    sweep = cfg["hydra"]["sweep"]
    return Path(sweep["dir"]).absolute() / str(sweep["subdir"])
