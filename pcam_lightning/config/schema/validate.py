"""Validation of a config with its schema; the first fault is reported."""

from typing import Any

from pydantic import BaseModel, ValidationError

from pcam_lightning.config.schema.audit import Audit
from pcam_lightning.config.schema.benchmark import Benchmark
from pcam_lightning.config.schema.check import Check
from pcam_lightning.config.schema.collect import Collect
from pcam_lightning.config.schema.compare import Compare, Reproduce
from pcam_lightning.config.schema.doctor import Doctor
from pcam_lightning.config.schema.download import Download
from pcam_lightning.config.schema.evaluate import Evaluate
from pcam_lightning.config.schema.export import Bundle, Export
from pcam_lightning.config.schema.fields import StrictModel
from pcam_lightning.config.schema.groups import Model
from pcam_lightning.config.schema.launcher import Launcher
from pcam_lightning.config.schema.predict import Predict
from pcam_lightning.config.schema.probe import Probe
from pcam_lightning.config.schema.report import Report
from pcam_lightning.config.schema.search import Search
from pcam_lightning.config.schema.sweep import Sweep
from pcam_lightning.config.schema.tour import Tour
from pcam_lightning.config.schema.train import Train
from pcam_lightning.errors import InputError

ROOTS: dict[str, type[StrictModel]] = {
    "train": Train,
    "benchmark": Benchmark,
    "audit": Audit,
    "doctor": Doctor,
    "download": Download,
    "check": Check,
    "report": Report,
    "tour": Tour,
    "sweep": Sweep,
    "compare": Compare,
    "reproduce": Reproduce,
    "collect": Collect,
    "evaluate": Evaluate,
    "predict": Predict,
    "probe": Probe,
    "export": Export,
    "bundle": Bundle,
}
"""The schema of each command's root config."""


def check(name: str, config: dict[str, Any]) -> None:
    """Raise `InputError` for the first value that the schema of command `name` rejects.

    In lists, the number NaN is replaced by the word "nan", which Hydra has parsed as a number.
    """
    _restore_nan(config)
    _check(ROOTS[name], config, "")


def check_model(config: dict[str, Any]) -> None:
    """Raise `InputError` for the first value that the schema of a section `model` rejects."""
    _check(Model, config, "model.")


def check_search(config: dict[str, Any]) -> None:
    """Raise `InputError` for the first value of `hydra.sweeper` that its schema rejects."""
    _check(Search, config, "hydra.sweeper.")


def read_launcher(config: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters of `hydra.launcher` with Slurm's spellings as numbers.

    Parameters that the config lacks stay absent. Raises `InputError` for the first value that its
    schema rejects.
    """
    _check(Launcher, config, "hydra.launcher.")
    return config | Launcher.model_validate(config).model_dump(exclude_unset=True)


def _check(section: type[BaseModel], config: dict[str, Any], prefix: str) -> None:
    try:
        section.model_validate(config)
    except ValidationError as error:
        raise InputError(prefix + _describe(error, config)) from None


def _restore_nan(config: Any) -> None:
    items = enumerate(config) if isinstance(config, list) else config.items()
    for key, value in list(items):
        if isinstance(value, list | dict):
            _restore_nan(value)
        elif isinstance(config, list) and value != value:
            config[key] = "nan"


def _describe(error: ValidationError, config: dict[str, Any]) -> str:
    # A union reports one error per member; all have the same key.
    first = error.errors()[0]
    path = _config_path(first["loc"], config)
    same = [e for e in error.errors() if _config_path(e["loc"], config) == path]
    expected = " or ".join(dict.fromkeys(_expectation(e["type"], e["msg"]) for e in same))
    expected = expected.replace(" or expected ", " or ")
    key = ".".join(path)
    if not key:
        return expected
    if first["type"] == "missing":
        return f"{key}: missing; {expected}"
    if first["type"] == "extra_forbidden":
        return f"{key}: no such key"
    return f"{key}={first['input']!r}: {expected}"


def _config_path(location: tuple[int | str, ...], config: Any) -> tuple[str, ...]:
    """Return an error's location as a path in the config, without names of union members."""
    path: list[str] = []
    for step in location:
        if isinstance(config, dict) and (step in config or not path or step in location[-1:]):
            path.append(str(step))
            config = config.get(step)
        elif isinstance(config, list) and isinstance(step, int):
            path.append(str(step))
            config = config[step] if step < len(config) else None
    return tuple(path)


def _expectation(kind: str, message: str) -> str:
    if kind == "value_error":
        return message.removeprefix("Value error, ")
    expected = message.removeprefix("Input should be ").removeprefix("a valid ")
    return f"expected {expected}" if expected != message else message
