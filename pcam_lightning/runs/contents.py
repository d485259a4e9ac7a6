"""Schemas of the JSON files of a run folder, for the keys that commands read.

Other keys are ignored: other commands and later versions write more.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from pcam_lightning.errors import one_line
from pcam_lightning.runs import legacy
from pcam_lightning.runs.files import RunFileError, read_json


def _is_path(value: str) -> str:
    try:
        if b"\0" not in os.fsencode(value):
            return value
    except UnicodeEncodeError:
        pass
    raise ValueError("expected a path")


PathText = Annotated[str, AfterValidator(_is_path)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Amount = Annotated[float, Field(ge=0, le=1e15)]
Metric = Annotated[float, Field(ge=0, le=1e6)]


class Content(BaseModel):
    """A JSON object with strict types and further keys."""

    model_config = ConfigDict(extra="allow", strict=True)


class Dataset(Content):
    name: str | None = None
    root: PathText | None = None
    fingerprint: str | None = None
    files: dict[str, str] | None = None


class Git(Content):
    commit: str | None = None


class Config(Content):
    run_dir: PathText | None = None
    model: dict[str, Any] | None = None
    data: dict[str, Any] | None = None
    trainer: dict[str, Any] | None = None
    callbacks: dict[str, Any] | None = None


class Backbone(Content):
    name: str
    file: PathText | None = None
    digest: str | None = None
    license: str | None = None
    network: dict[str, Any]


class Manifest(Content):
    started: str | None = None
    seed: int | None = None
    dataset: Dataset = Dataset()
    git: Git = Git()
    config: Config = Config()
    sources: dict[str, str] | None = None
    snapshot: dict[str, Any] | None = None
    python: dict[str, Any] | None = None
    packages: dict[str, Any] | None = None
    hardware: dict[str, Any] | None = None
    environment: dict[str, Any] | None = None
    slurm: dict[str, Any] | None = None
    determinism: dict[str, Any] | None = None
    backbone: Backbone | None = None


class Error(Content):
    text: str = ""


class Status(Content):
    state: Literal["running", "finished", "failed", "preempted"] | None = None
    error: Error | str | None = None
    attempt: Annotated[int, Field(ge=1, le=10**6)] | None = None
    started: str | None = None
    finished: str | None = None
    host: str | None = None
    pid: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    process: str | None = None


class Score(Content):
    value: Metric | None = None


class Split(Content):
    threshold: Annotated[float, Field(ge=0, le=2)] | None = None
    metrics: dict[str, Score] = {}
    baselines: dict[str, dict[str, Metric | None]] = {}

    @model_validator(mode="after")
    def _in_range(self) -> Split:
        for name, score in self.metrics.items():
            if name != "log_loss" and (score.value or 0) > 1:
                raise ValueError(f"metrics.{name}.value={score.value}: expected at most 1")
        return self


class BenchmarkRow(Content):
    contender: str | None = None
    model: str | None = None
    parameters: int | None = None
    batch_size: int | None = None
    precision: str | int | None = None
    device: str | None = None
    device_name: str | None = None
    median: Annotated[float, Field(gt=0, le=1e15)] | None = None
    low: Amount | None = None
    high: Amount | None = None


class Summary(Content):
    dataset: str | None = None
    val: Split | None = None
    test: Split | None = None
    weights_digest: str | None = None
    best_checkpoint: PathText | None = None
    seconds: Amount | None = None
    training_patches_per_second: Amount | None = None
    rows: list[BenchmarkRow] | None = None


def read_manifest(path: Path) -> dict[str, Any]:
    """Return a `manifest.json`, its config with the current names (see `legacy`).

    Raises RunFileError if the file is missing or damaged.
    """
    manifest = checked(path, read_json(path), Manifest)
    if "config" in manifest:
        manifest["config"] = legacy.translate(manifest["config"])
    return manifest


def read_status(path: Path) -> dict[str, Any]:
    """Return a `status.json`; raise RunFileError if it is missing or damaged."""
    return checked(path, read_json(path), Status)


def read_summary(path: Path) -> dict[str, Any]:
    """Return a `summary.json`; raise RunFileError if it is missing or damaged."""
    return checked(path, read_json(path), Summary)


def checked(path: Path | str, value: dict[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    """Return `value` unchanged if `model` accepts it, else raise RunFileError with the key."""
    try:
        model.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        value_text = "" if first["type"] == "missing" else f"={one_line(repr(first['input']), 60)}"
        expected = first["msg"].removeprefix("Value error, ").replace("Input should", "it should")
        raise RunFileError(f"{path}: {key}{value_text}: {one_line(expected)}") from None
    return value
