"""Target of an evaluation: a run's best checkpoint, another one, or predictions of some runs."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from pcam_lightning.config import schema
from pcam_lightning.config.compose import Config
from pcam_lightning.config.trained import (
    enclosing_run,
    find_checkpoint,
    model_config,
    recorded_prior_offset,
)
from pcam_lightning.data.layout import describe_missing
from pcam_lightning.data.source import recorded_root
from pcam_lightning.errors import InputError
from pcam_lightning.runs import Run
from pcam_lightning.weights.license import is_noncommercial


@dataclass(frozen=True)
class EvaluationTarget:
    """The model or predictions to evaluate, and their run and data set."""

    config: Config
    """The command's config, with the run's model and data unless the command line sets them."""
    checkpoint: Path | None
    """None for saved predictions."""
    predictions: dict[str, list[Path]] = field(default_factory=dict)
    """Split, "val" or "test", to the files of its saved predictions; of several, the mean."""
    runs: Sequence[Run] = ()
    """The runs whose folders contain the checkpoint or the predictions."""
    dataset: Mapping[str, Any] = field(default_factory=dict)
    """`name`, `root` and `fingerprint` of the runs' data set; may be empty."""
    overrides: Sequence[str] = ()
    """The command line."""

    @property
    def run(self) -> Run | None:
        """The run of a checkpoint or of the predictions; None without one, and for several."""
        return self.runs[0] if len(self.runs) == 1 and not self.is_ensemble else None

    @property
    def is_ensemble(self) -> bool:
        """True for several predictions, whose mean is evaluated."""
        return any(len(paths) > 1 for paths in self.predictions.values())

    @property
    def splits(self) -> list[str]:
        """The splits to predict; validation is always one, since thresholds are chosen on it."""
        return ["val", "test"] if self.config["split"] == "test" else ["val"]

    @property
    def description(self) -> str:
        """A sentence for the report."""
        if self.checkpoint is not None:
            return f"Checkpoint {self.checkpoint}."
        folders = ", ".join(str(path.parent) for path in next(iter(self.predictions.values())))
        return f"{'Mean of predictions' if self.is_ensemble else 'Predictions'} from {folders}."

    def recorded_prevalence(self) -> float | None:
        """Return the runs' share of tumour among the training labels, None if not recorded."""
        for run in self.runs:
            value = _recorded(run, self.config["split"], "train_prevalence")
            if isinstance(value, float) and 0 <= value <= 1:
                return value
        return None

    def recorded_digest(self) -> str | None:
        """Return the digest of the weights behind the run's predictions, None if not recorded."""
        value = None if self.run is None else _recorded(self.run, "weights_digest")
        return value if isinstance(value, str) else None

    def recorded_backbone(self) -> dict[str, Any] | None:
        """Return the runs' pretrained weights, as in a manifest; None if there are none.

        Of several, those for non-commercial use only come first.
        """
        backbones = [found for run in self.runs if (found := run.manifest.get("backbone"))]
        return max(
            backbones, key=lambda found: is_noncommercial(found.get("license")), default=None
        )

    def recorded_prior_offset(self) -> float:
        """Return the mean correction of the logits for the share of tumour in training."""
        return fmean(recorded_prior_offset(run) for run in self.runs or [None])

    def saved_dataset(self) -> dict[str, Any]:
        """Return the recorded data set of saved predictions; `data.root` replaces its folder.

        Raises:
            InputError: `data.root` lacks files.
        """
        known = {"name": "unknown", "root": None, "fingerprint": None} | dict(self.dataset)
        if self.config["data"]["root"] is None:
            return known
        root = Path(os.path.expanduser(self.config["data"]["root"])).resolve()
        if fault := describe_missing(root):
            raise InputError(
                f"data.root={root}: {fault}; data.root is optional for saved predictions"
            )
        return known | {"root": str(root)}


def resolve_target(config: Config, overrides: Iterable[str]) -> EvaluationTarget:
    """Resolve `run=`, `checkpoint=` or `predictions=` of the command to an evaluation target.

    Args:
        config: the command's config, checked against its schema.
        overrides: the command line; model and data that it sets take precedence over the run's.

    Raises:
        InputError: the target does not exist, its run's manifest is damaged, or the run's model is
            code from outside this package and the command line sets no model.
    """
    named = [override.lstrip("+~") for override in overrides]
    if config["predictions"] is not None:
        return _saved(config)
    checkpoint, run = find_checkpoint(config)
    if run is None:
        return EvaluationTarget(config, checkpoint, overrides=named)
    model = model_config(config, run, named)
    manifest = run.manifest
    run_config, dataset = manifest.get("config", {}), manifest.get("dataset", {})
    if "data" not in run_config:
        raise InputError(f"{run.path}/manifest.json: no config.data, expected a run of train")
    config = config | {
        "model": model,
        "data": _data(config["data"], run_config["data"], dataset, named),
    }
    try:
        schema.check("evaluate", config)
    except InputError as error:
        raise InputError(f"{run.path}/manifest.json: config.{error}") from None
    return EvaluationTarget(config, checkpoint, {}, [run], dataset, named)


def _data(own: Config, of_run: Config, dataset: Mapping[str, Any], named: list[str]) -> Config:
    """Return the run's section `data` for an evaluation.

    The command's own section `own` provides the keys on the command line and the folders to write
    to; options that concern training only are reset.
    """
    if any(override.startswith("data=") for override in named):
        return own
    keys = {re.split(r"[.=]", override)[1] for override in named if override.startswith("data.")}
    data = of_run | {"_target_": own["_target_"], "filter": "none", "exclude": None}
    demo = of_run.get("demo")
    data["demo"] = (demo if isinstance(demo, dict) else {}) | {"parent": own["demo"]["parent"]}
    data |= {key: own[key] for key in ("cache_dir", "on_missing")}
    data |= {key: own[key] for key in keys}
    if own["root"] is not None:
        return data | {"root": own["root"]}
    return data | recorded_root(dataset)


def _saved(config: Config) -> EvaluationTarget:
    """Resolve `predictions=`, one place or a list of them."""
    named = config["predictions"]
    places = [Path(each) for each in ([named] if isinstance(named, str) else named)]
    tables = [_tables(place, config["split"]) for place in places]
    files = [each[config["split"]] for each in tables]
    for number, place in enumerate(places):
        if files[number].resolve() in [file.resolve() for file in files[:number]]:
            raise InputError(f"predictions={place}: named twice")
        if tables[number].keys() != tables[0].keys():
            raise InputError(
                f"predictions={place}: splits {', '.join(tables[number])}, expected those of "
                f"{places[0]}: {', '.join(tables[0])}"
            )
    found = [enclosing_run(file.absolute().parent.parent) for file in files]
    runs = [run for run in found if run is not None]
    datasets = [run.manifest.get("dataset", {}) for run in runs]
    for run, dataset in zip(runs, datasets, strict=True):
        if dataset.get("fingerprint") != datasets[0].get("fingerprint"):
            raise InputError(f"{run.path}: another data set than that of {runs[0].path}")
    together = {split: [each[split] for each in tables] for split in tables[0]}
    return EvaluationTarget(config, None, together, runs, datasets[0] if datasets else {})


def _recorded(run: Run, *keys: str) -> Any:
    """Return the value at these nested keys of a run's summary, None if there is none."""
    try:
        value: Any = run.summary
        for key in keys:
            value = value[key]
    except (InputError, KeyError, TypeError):
        return None
    return value


def _tables(path: Path, split: str) -> dict[str, Path]:
    """Find the tables in a folder, in a run folder's `predictions/`, or beside a given table."""
    if path.suffix == ".parquet":
        folder, tables = path.parent, {split: path}
    else:
        folder = path / "predictions" if (path / "predictions").is_dir() else path
        tables = {split: folder / f"{split}.parquet"}
    if not tables[split].is_file():
        raise InputError(
            f"predictions={path}: no {tables[split].name}, expected a folder with this file"
        )
    if (folder / "val.parquet").is_file():
        tables.setdefault("val", folder / "val.parquet")
    return tables
