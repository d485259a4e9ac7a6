"""What is evaluated: a run's best checkpoint, any checkpoint, or saved predictions."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pcam_lightning.config import schema
from pcam_lightning.config.compose import Config
from pcam_lightning.config.targets import check_foreign
from pcam_lightning.data.files import missing_files
from pcam_lightning.data.source import recorded_root
from pcam_lightning.errors import InputError
from pcam_lightning.runs import Run
from pcam_lightning.runs.run import is_run_folder


@dataclass(frozen=True)
class EvaluationTarget:
    """What to evaluate, on which data, and where it came from."""

    config: Config
    """Of the command, with model and data of the run where the command line names no other."""
    checkpoint: Path | None
    """None where there are saved predictions."""
    predictions: dict[str, Path] = field(default_factory=dict)
    """Split, "val" or "test", to the table saved."""
    run: Run | None = None
    """The run that the checkpoint or the predictions lie in."""
    dataset: Mapping[str, Any] = field(default_factory=dict)
    """What that run says of its data: `name`, `root`, `fingerprint`; may be empty."""

    @property
    def splits(self) -> list[str]:
        """Those to predict: validation too where test is reported on."""
        return ["val", "test"] if self.config["split"] == "test" else ["val"]

    @property
    def description(self) -> str:
        """For a reader."""
        if self.checkpoint is not None:
            return f"Checkpoint {self.checkpoint}."
        return f"From the predictions in {next(iter(self.predictions.values())).parent}."

    def recorded_prevalence(self) -> float | None:
        """The share of tumour among the training labels that the run noted, if it did."""
        noted = self._noted(self.config["split"], "train_prevalence")
        return noted if isinstance(noted, float) and 0 <= noted <= 1 else None

    def recorded_digest(self) -> str | None:
        """The digest of the weights that the run's own predictions are of, if it noted one."""
        noted = self._noted("weights_digest")
        return noted if isinstance(noted, str) else None

    def _noted(self, *keys: str) -> Any:
        """What stands at these keys of the run's summary, None where nothing does."""
        try:
            found: Any = None if self.run is None else self.run.summary
            for key in keys:
                found = found[key]
        except (InputError, KeyError, TypeError):
            return None
        return found

    def saved_dataset(self) -> dict[str, Any]:
        """What the run of saved predictions says of its data, whose folder may be named anew.

        Raises:
            InputError: the folder named lacks files.
        """
        known = {"name": "unknown", "root": None, "fingerprint": None} | dict(self.dataset)
        if self.config["data"]["root"] is None:
            return known
        root = Path(self.config["data"]["root"]).resolve()
        if missing := missing_files(root):
            raise InputError(
                f"data.root={root}: {len(missing)} of the 6 PatchCamelyon files are not there, the "
                f"first is {missing[0].name}; without data.root=, the predictions are enough"
            )
        return known | {"root": str(root)}


def resolve_target(config: Config, overrides: Iterable[str]) -> EvaluationTarget:
    """Find what the command was asked to evaluate.

    Args:
        config: of the command, checked against its schema.
        overrides: of the command line; what they name of data and model is not taken from a run.

    Raises:
        InputError: it is not there, its run's manifest is damaged, or its run was made with a model
            of other code than this package's, which the command does not name.
    """
    named = [override.lstrip("+~") for override in overrides]
    if config["predictions"] is not None:
        tables = _tables(Path(config["predictions"]), config["split"])
        run = _run_around(next(iter(tables.values())).absolute().parent.parent)
        dataset = {} if run is None else run.manifest.get("dataset", {})
        return EvaluationTarget(config, None, tables, run, dataset)
    if config["run"] is not None:
        run = Run(config["run"])
        checkpoint = run.best_checkpoint
    else:
        checkpoint = Path(config["checkpoint"])
        if not checkpoint.is_file():
            raise InputError(f"checkpoint={checkpoint}: no such file, expected one like best.ckpt")
        run = _run_around(checkpoint.absolute().parent.parent)
    if run is None:
        return EvaluationTarget(config, checkpoint)
    manifest = run.manifest
    of_run, dataset = manifest.get("config", {}), manifest.get("dataset", {})
    for section in ("model", "data"):
        if section not in of_run:
            raise InputError(
                f"{run.path}/manifest.json: no config.{section}, expected a run of train"
            )
    config = config | {
        "model": _model(run, config, of_run, named),
        "data": _data(config["data"], of_run["data"], dataset, named),
    }
    try:
        schema.check("evaluate", config)
    except InputError as error:
        raise InputError(f"{run.path}/manifest.json: config.{error}") from None
    return EvaluationTarget(config, checkpoint, {}, run, dataset)


def _model(run: Run, config: Config, of_run: Config, named: list[str]) -> Config:
    if any(override.startswith(("model=", "model.")) for override in named):
        return config["model"]
    check_foreign(of_run, ["model"], f"{run.path}/manifest.json")
    return of_run["model"]


def _data(ours: Config, of_run: Config, dataset: Mapping[str, Any], named: list[str]) -> Config:
    """The run's data, but for what is named now, for what only concerns training, and for folders
    that would be written to.
    """
    if any(override.startswith("data=") for override in named):
        return ours
    keys = {re.split(r"[.=]", override)[1] for override in named if override.startswith("data.")}
    data = of_run | {"_target_": ours["_target_"], "filter": "none", "exclude": None}
    demo = of_run.get("demo")
    data["demo"] = (demo if isinstance(demo, dict) else {}) | {"parent": ours["demo"]["parent"]}
    data |= {key: ours[key] for key in ("cache_dir", "on_missing")}
    data |= {key: ours[key] for key in keys}
    if ours["root"] is not None:
        return data | {"root": ours["root"]}
    return data | recorded_root(dataset)


def _tables(path: Path, split: str) -> dict[str, Path]:
    """The tables in a folder, in a run folder's `predictions/`, or beside a table of `split`."""
    if path.suffix == ".parquet":
        folder, tables = path.parent, {split: path}
    else:
        folder = path / "predictions" if (path / "predictions").is_dir() else path
        tables = {split: folder / f"{split}.parquet"}
    if not tables[split].is_file():
        raise InputError(
            f"predictions={path}: no {tables[split].name} there, expected a folder with it"
        )
    if (folder / "val.parquet").is_file():
        tables.setdefault("val", folder / "val.parquet")
    return tables


def _run_around(folder: Path) -> Run | None:
    return Run(folder) if is_run_folder(folder) else None
