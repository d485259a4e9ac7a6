"""Schemas of the files that checks read, for the keys that they use.

Every reader raises RunFileError if a file is missing or damaged.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from pcam_lightning.checks.inputs import Folder
from pcam_lightning.runs.contents import Dataset, Finite, checked
from pcam_lightning.runs.files import read_json

Model = TypeVar("Model", bound="Section")
Count = Annotated[int, Field(ge=0, le=10**15)]
Share = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """A JSON object with strict types; further keys are ignored."""

    model_config = ConfigDict(strict=True)


class Interval(Section):
    value: Finite | None = None
    low: Finite | None = None
    high: Finite | None = None


class Unit(Section):
    slides: Count | None = None


class SplitScores(Section):
    rows: Count | None = None
    metrics: dict[str, Interval] = {}
    baselines: dict[str, dict[str, Finite | None]] = {}
    beaten_by_constant: list[str] = []
    interval: Unit = Unit()


class DataFacts(Section):
    rows: dict[str, Count] = {}
    dropped: dict[str, Count] = {}
    cleaning: dict[str, dict[str, Count]] = {}


class TrainSummary(Section):
    dataset: str | None = None
    val: SplitScores | None = None
    test: SplitScores | None = None
    waiting_for_data: Finite | None = None
    weights_digest: str | None = None
    data: DataFacts = DataFacts()


class CalibrationError(Interval):
    if_perfect: Finite | None = None
    if_perfect_high: Finite | None = None


class Costs(Section):
    ece: CalibrationError = CalibrationError()


class Calibration(Section):
    before: Costs | None = None
    after: Costs | None = None


class WorseSlice(Section):
    property: str
    slice: str
    metrics: list[str] = []


class Slices(Section):
    slides_known: bool = False
    scored: Count | None = None
    worse: list[WorseSlice] = []


class Attribution(Section):
    method: str | None = None
    in_center: dict[str, Share | None] = {}
    area_of_center: Share = 1 / 9


class Inference(Section):
    weights_digest: str | None = None


class EvaluateSummary(Section):
    dataset: str | None = None
    calibration: Calibration = Calibration()
    slices: Slices = Slices()
    attribution: Attribution | None = None
    inference: Inference | None = None


class Comparison(Section):
    patches: Count | None = None
    largest_difference: Share | None = None
    flipped_decisions: Count | None = None
    tolerance: Share = 1e-4
    auroc: dict[str, Share | None] = {}


class ExportSummary(Section):
    """The summary of `export` (`files`) or `bundle` (`model`)."""

    files: dict[str, Comparison] | list[str] = {}
    model: Comparison | None = None


class BenchmarkRow(Section):
    contender: str | None = None
    model: str | None = None
    batch_size: Count | None = None
    waiting: Finite | None = None
    overhead: Finite | None = None


class BenchmarkSummary(Section):
    mode: str | None = None
    rows: list[BenchmarkRow] = []


class ReproduceSummary(Section):
    identical: bool
    verdict: str = ""


class ComparedFact(Section):
    kind: str
    name: str
    values: list[Any]
    matters: bool


class ComparedPair(Section):
    same_weights: bool | None = None


class ComparisonOfRuns(Section):
    """The `compare.json` of `compare`; a pair for each run but the first."""

    names: list[str]
    differences: list[ComparedFact]
    pairs: list[ComparedPair]


class AuditSplit(Section):
    rows: Count
    slides: Count | None = None


class AuditReport(Section):
    splits: dict[str, AuditSplit] = {}
    findings: dict[str, dict[str, Count]] = {}
    near_duplicates: dict[str, Count] | None = None
    """None if the audit did not search for them, as in earlier versions."""


class GitFacts(Section):
    commit: str | None = None
    dirty: bool | None = None
    note: str | None = None
    patch_left_out: list[str] = []


class ManifestFacts(Section):
    dataset: Dataset = Dataset()
    git: GitFacts = GitFacts()
    config: dict[str, Any] = {}
    hardware: dict[str, Any] | None = None
    determinism: dict[str, Any] | None = None
    seed: int | None = None


def read_summary(folder: Folder, model: type[Model]) -> Model:
    """Return the `summary.json` of a folder."""
    return model(**checked(folder.path / "summary.json", folder.run.summary, model))


def read_manifest(folder: Folder) -> ManifestFacts:
    """Return the `manifest.json` of a folder."""
    path = folder.path / "manifest.json"
    return ManifestFacts(**checked(path, folder.run.manifest, ManifestFacts))


def read_audit(folder: Folder) -> AuditReport:
    """Return the `audit.json` of an audit."""
    path = folder.path / "audit.json"
    return AuditReport(**checked(path, read_json(path), AuditReport))


def read_comparison(folder: Folder) -> ComparisonOfRuns:
    """Return the `compare.json` of a comparison."""
    path = folder.path / "compare.json"
    return ComparisonOfRuns(**checked(path, read_json(path), ComparisonOfRuns))


def setting(config: Mapping[str, Any], key: str) -> Any:
    """Return the value of a dotted key of a config, None if there is none."""
    value: Any = config
    for name in key.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value
