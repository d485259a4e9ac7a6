"""Loggers of a run. A run that continues also continues its MLflow and W&B runs."""

import os
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from lightning.pytorch.loggers import Logger, MLFlowLogger, WandbLogger
from pydantic import BaseModel, ConfigDict, Field

from pcam_lightning.config.compose import Config
from pcam_lightning.config.construct import construct
from pcam_lightning.errors import InputError, one_line
from pcam_lightning.files import write_json
from pcam_lightning.runs.contents import checked
from pcam_lightning.runs.files import read_json
from pcam_lightning.runs.process import is_first_rank

NAME = "trackers.json"
RUN_ID = {"WandbLogger": "id", "MLFlowLogger": "run_id"}
"""Class of a tracker's logger, and the argument that names a run to continue."""
SECONDS_TO_ANSWER = 5.0
PORTS = {"http": 80, "https": 443}


class Trackers(BaseModel):
    """Content of `trackers.json`: key in the section `logger` to the id of the tracker's run."""

    model_config = ConfigDict(strict=True)

    runs: dict[str, Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,128}$")]]


def build_loggers(section: Mapping[str, Any], config: Config) -> list[Logger]:
    """Return the loggers of the section `logger`, connected to their trackers.

    Args:
        section: key to a logger's config, or None.
        config: the whole config, which trackers record. The ids of their runs are kept in
            `trackers.json` of its `run_dir`, if it has one.

    Raises:
        InputError: a tracker's package is not installed, or a tracker does not accept the run.
    """
    parts = {key: part for key, part in section.items() if part}
    if not parts:
        return []
    folder = config.get("run_dir")  # a benchmark has none, and no trackers
    known = _read(Path(folder)) if folder else {}
    loggers, ids = [], dict(known)
    for key, part in parts.items():
        logger = construct(_with_run(part, known.get(key)), f"logger.{key}")
        loggers.append(logger)
        if not is_first_rank():
            continue
        if isinstance(logger, MLFlowLogger | WandbLogger):
            ids[key] = _connect(logger, key, part)
        if not (isinstance(logger, MLFlowLogger) and key in known):  # its values cannot change
            logger.log_hyperparams(config)
    if is_first_rank() and folder and ids != known:
        write_json(Path(folder) / NAME, {"runs": ids})
    return loggers


def _connect(logger: MLFlowLogger | WandbLogger, key: str, part: Mapping[str, Any]) -> str:
    """Connect a logger with its tracker, and return the id of the tracker's run."""
    if isinstance(logger, MLFlowLogger):
        _check_server(key, str(part.get("tracking_uri") or ""))
    try:
        _ = logger.experiment
        return str(logger.run_id if isinstance(logger, MLFlowLogger) else logger.version)
    except Exception as error:
        package = type(error).__module__.partition(".")[0]
        if package not in ("mlflow", "sqlalchemy", "wandb"):
            raise
        raise InputError(f"logger.{key}: {one_line(error)}{_cure(package)}") from None


def finish_loggers(loggers: Iterable[Logger]) -> None:
    """End the W&B run of this process: the next run of the process would continue it."""
    for logger in loggers:
        if isinstance(logger, WandbLogger) and is_first_rank():
            logger.experiment.finish()


def _with_run(part: Mapping[str, Any], run_id: str | None) -> dict[str, Any]:
    """Return a logger's config that continues a run, and follows the variable WANDB_MODE."""
    name = str(part["_target_"]).rpartition(".")[2]
    part = dict(part)
    if name in RUN_ID and run_id is not None:
        part.setdefault(RUN_ID[name], run_id)
    if name == "WandbLogger" and (mode := os.environ.get("WANDB_MODE")):
        part["offline"] = mode in ("offline", "dryrun")
    return part


def _check_server(key: str, uri: str) -> None:
    """Raise `InputError` unless a server answers: MLflow would retry for minutes."""
    address = urlsplit(uri)
    if address.scheme not in PORTS:
        return
    place = address.hostname or "", address.port or PORTS[address.scheme]
    try:
        socket.create_connection(place, SECONDS_TO_ANSWER).close()
    except OSError as error:
        raise InputError(
            f"logger.{key}.tracking_uri={uri}: no answer ({error.strerror or error}); expected a "
            "running MLflow server, or a store such as sqlite:///outputs/mlflow.db"
        ) from None


def _read(folder: Path) -> dict[str, str]:
    """Return the ids of the trackers' runs that a run folder continues."""
    path = folder / NAME
    if not is_first_rank() or not os.path.lexists(path):
        return {}
    return checked(path, read_json(path), Trackers)["runs"]


def _cure(package: str) -> str:
    if package == "wandb":
        return "; expected `wandb login`, the variable WANDB_API_KEY, or WANDB_MODE=offline"
    return ""
