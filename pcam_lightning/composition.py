"""From what Hydra composed to the plain, checked config that a command is given."""

from pathlib import Path
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from pcam_lightning import schema
from pcam_lightning.errors import InputError

_PACKAGE = Path(__file__).parent

CONF = next(
    (folder for folder in (_PACKAGE / "conf", _PACKAGE.parent / "conf") if folder.is_dir()),
    _PACKAGE / "conf",
)
"""The config tree: inside the package in a wheel, beside it in a checkout."""

Config = dict[str, Any]


def validated(name: str, cfg: DictConfig) -> Config:
    """The composed config of command `name`, resolved, as plain containers.

    Raises:
        InputError: a key is missing, or its schema refuses it.
    """
    if missing := OmegaConf.missing_keys(cfg) - {"hydra"}:
        raise InputError(f"{min(missing)}: missing, expected {min(missing)}=VALUE")
    config = cast(Config, OmegaConf.to_container(cfg, resolve=True))
    config.pop("hydra", None)
    schema.check(name, config)
    return config


def validated_in(folder: Path, cfg: DictConfig) -> Config:
    """The same, of a composed config that has `hydra` in it, for a run in `folder`.

    Errors as in `validated`.
    """
    with read_write(cfg.hydra.runtime), open_dict(cfg.hydra.runtime):
        cfg.hydra.runtime.output_dir = str(folder)  # as Hydra will, when the job begins
    before = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(cfg)
    try:
        plain = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
        return validated(cfg.hydra.job.config_name, plain)
    finally:
        HydraConfig.instance().cfg = before


def choice(group: str, name: str) -> Config:
    """What `conf/<group>/<name>.yaml` holds, for a file that includes no other.

    Raises:
        InputError: there is none of this name.
    """
    paths = {path.stem: path for path in sorted((CONF / group).glob("*.yaml"))}
    if name not in paths:
        raise InputError(f"{group}={name}: no such choice, expected one of {', '.join(paths)}")
    return cast(Config, OmegaConf.to_container(OmegaConf.load(paths[name]), resolve=True))


def run_folder(cfg: DictConfig) -> Path:
    """Where a job of a sweep will have its run."""
    return Path(cfg.hydra.sweep.dir).absolute() / str(cfg.hydra.sweep.subdir)
