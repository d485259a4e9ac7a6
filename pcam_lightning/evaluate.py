"""How good is a model, where is it weak, and how sure is that?

python -m pcam_lightning.evaluate run=FOLDER evaluate.threshold="'recall>=0.95'"
"""

import logging
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig

from pcam_lightning.command import Config, command, data_root_is_named, save_resolved
from pcam_lightning.errors import InputError
from pcam_lightning.runs.manifest import collect_manifest
from pcam_lightning.runs.record import recording, write_json
from pcam_lightning.runs.threshold import Threshold, write_threshold
from pcam_lightning.subject import Subject, find_subject

if TYPE_CHECKING:
    import pandas as pd

    from pcam_lightning.evaluation.analysis import Analysis
    from pcam_lightning.inference import Inference
    from pcam_lightning.specimens import Specimens

log = logging.getLogger(__name__)


@command("evaluate")
def main(config: Config) -> Path:
    folder = Path(config["run_dir"])
    overrides = HydraConfig.get().overrides.task
    subject = find_subject(config, overrides, data_root_is_named())
    manifest = collect_manifest(command=sys.orig_argv, seed=config["seed"], dataset={})
    with recording(folder, manifest):
        save_resolved(subject.config, folder)
        evaluate(subject, folder, manifest)
    return folder / "summary.json"


def evaluate(subject: Subject, folder: Path, manifest: dict[str, Any]) -> None:
    """Write everything that is said of a subject into a run folder."""
    from pcam_lightning.evaluation.analysis import analyse, write_analysis
    from pcam_lightning.evaluation.page import write_page
    from pcam_lightning.evaluation.predictions import read_predictions
    from pcam_lightning.evaluation.report import print_report
    from pcam_lightning.specimens import Specimens

    start = time.monotonic()
    config, options = subject.config, subject.config["evaluate"]
    if subject.checkpoint is None:
        inference, dataset, paths = None, _saved_dataset(subject), subject.predictions
    else:
        inference, dataset = _infer(subject, folder)
        splits = ["val", "test"] if config["split"] == "test" else ["val"]
        paths = {split: folder / "predictions" / f"{split}.parquet" for split in splits}
    write_json(folder / "manifest.json", manifest | {"dataset": dataset})
    tables = {split: read_predictions(path) for split, path in paths.items()}
    specimens = Specimens(dataset["root"] and Path(dataset["root"]), config["data"], tables)
    hospitals = options["hospitals"]
    tables = specimens.described(hospitals and Path(hospitals))
    _save_tables(folder, tables)
    prevalence, source = _prevalence(subject, specimens, tables)
    chosen = {key: value for key, value in options.items() if key in ANALYSIS_OPTIONS}
    analysis = analyse(tables, config["split"], prevalence, seed=config["seed"], **chosen)
    summary: dict[str, Any] = {
        "dataset": dataset["name"],
        "subject": _describe(subject),
        "run": subject.run and subject.run.path,
        "checkpoint": subject.checkpoint,
        "predictions": {split: str(path) for split, path in paths.items()},
        "train_prevalence": {"value": prevalence, "source": source},
        **analysis.summary,
        "inference": inference and inference.facts,
    }
    if summary["tta"] and inference:
        summary["tta"]["cost"] = inference.facts["tta_cost"]
    plots = write_analysis(folder, analysis, tables, f"dataset: {dataset['name']}")
    hangings = _hang(folder, analysis, specimens, inference, options, summary)
    _keep_threshold(subject, folder, analysis, dataset, inference)
    summary["seconds"] = time.monotonic() - start
    write_page(folder / "page.html", summary, analysis, plots, hangings)
    write_json(folder / "summary.json", summary)
    print_report(summary, analysis)
    print(f"page: {os.path.relpath(folder)}/page.html")


ANALYSIS_OPTIONS = (
    *("threshold", "beta", "cost_ratio"),
    *("slices", "gallery", "resamples"),
)


def _saved_dataset(subject: Subject) -> dict[str, Any]:
    """Of saved predictions: what their run says of its data, in a folder that may be named anew."""
    from pcam_lightning.data.files import missing_files

    known, root = dict(subject.dataset), subject.config["data"]["root"]
    dataset = {"name": "unknown", "root": None, "fingerprint": None} | known
    if subject.root_is_named:
        if missing := missing_files(Path(root)):
            raise InputError(
                f"data.root={root}: {len(missing)} of the 6 PatchCamelyon files are not there, the "
                f"first is {missing[0].name}; without data.root=, the predictions are enough"
            )
        dataset["root"] = str(Path(root).resolve())
    return dataset


def _infer(subject: Subject, folder: Path) -> "tuple[Inference, dict[str, Any]]":
    """Predict, and say which data that was on."""
    from pcam_lightning import assembly
    from pcam_lightning.data.source import find_source
    from pcam_lightning.inference import predict

    config, options = subject.config, subject.config["evaluate"]
    assembly.check_targets(config)
    data = config["data"]
    source = find_source(data["root"], data["demo"], data["on_missing"], subject.root_is_named)
    log.info("dataset: %s, in %s", source.name, source.root)
    datamodule = assembly.build_datamodule(config, source.root)
    datamodule.setup()
    before = subject.dataset.get("fingerprint")
    if before not in (None, datamodule.fingerprint):
        log.warning("other data than the run was made with: %s", source.root)
    assert subject.checkpoint is not None
    splits = ["val", "test"] if config["split"] == "test" else ["val"]
    attribution, tta = options["attribution"], options["tta"]
    inference = predict(config, subject.checkpoint, datamodule, folder, splits, tta, attribution)
    dataset = {
        "name": source.name,
        "root": str(source.root),
        "fingerprint": datamodule.fingerprint,
        "files": datamodule.digests,
    }
    return inference, dataset


def _save_tables(folder: Path, tables: "dict[str, pd.DataFrame]") -> None:
    """The tables as they were analysed, so that the folder can be evaluated again."""
    from pcam_lightning.evaluation.atomic import atomic_path

    for split, table in tables.items():
        with atomic_path(folder / "predictions" / f"{split}.parquet") as temporary:
            table.to_parquet(temporary, index=False)


def _prevalence(
    subject: Subject, specimens: "Specimens", tables: "dict[str, pd.DataFrame]"
) -> tuple[float, str]:
    """Share of tumour that a constant can know of, and from where."""
    if (share := specimens.prevalence()) is not None:
        return share, "training labels"
    split = subject.config["split"]
    recorded: Any = None
    if subject.run is not None:
        try:
            recorded = subject.run.summary.get(split, {}).get("train_prevalence")
        except (InputError, AttributeError):
            recorded = None  # a run that has no such summary
    if isinstance(recorded, float) and 0 <= recorded <= 1:
        return recorded, "training labels, as the run recorded them"
    known = "val" if "val" in tables else split
    log.warning("the training labels are not at hand: constants know the prevalence of %s", known)
    return float(tables[known]["label"].mean()), f"labels of {known}"


def _hang(
    folder: Path,
    analysis: "Analysis",
    specimens: "Specimens",
    inference: "Inference | None",
    options: Config,
    summary: dict[str, Any],
) -> list[Any]:
    """Draw the galleries and note them in the summary; nothing where the pixels are not there."""
    from pcam_lightning.evaluation.exhibits import captions, centre_share
    from pcam_lightning.evaluation.gallery import heat, plot_gallery
    from pcam_lightning.evaluation.page import Hanging

    summary["galleries"], summary["attribution"] = {}, None
    if specimens.missing:
        summary["galleries"]["left_out"] = f"left out: {specimens.missing}"
        log.warning("galleries are left out: %s", specimens.missing)
        return []
    method = options["attribution"]
    if method != "none":
        summary["attribution"] = {"method": method, "area_of_centre": 1 / 9, "in_centre": {}}
    pixels, hangings = specimens.patches(analysis.split), []
    for each in analysis.exhibits:
        summary["galleries"][each.name] = len(each.rows)
        rows = analysis.table["row"].to_numpy()[each.rows]
        patches = pixels[rows]  # type: ignore[index]
        hanging = Hanging(each, patches)
        title = f"{each.title}, {analysis.split}, dataset: {summary['dataset']}"
        texts, path = captions(analysis.table, each.rows), folder / "plots" / f"{each.name}.png"
        if len(rows):
            plot_gallery(path, patches, texts, title)
        if len(rows) and method != "none":
            from pcam_lightning.attribution import attribute

            assert inference is not None
            maps = attribute(inference.module.model, patches, analysis.threshold, method)
            hanging = Hanging(each, patches, heat(patches, maps), centre_share(maps))
            summary["attribution"]["in_centre"][each.name] = hanging.centre_mean
            path = path.with_name(f"{each.name}_attribution.png")
            plot_gallery(path, hanging.heat, texts, f"{method}: {title}")  # type: ignore[arg-type]
        hangings.append(hanging)
    return hangings


def _keep_threshold(
    subject: Subject,
    folder: Path,
    analysis: "Analysis",
    dataset: dict[str, Any],
    inference: "Inference | None",
) -> None:
    """Store the threshold here, and with the run of the model."""
    from pcam_lightning.evaluation.analysis import PLAIN_LOGIT

    facts, val = analysis.summary["threshold"], analysis.summary.get("val")
    digest = inference and inference.facts["weights_digest"]
    threshold = Threshold(
        value=facts["value"],
        rule=facts["rule"],
        temperature=analysis.summary["temperature"],
        tta="d4" if PLAIN_LOGIT in analysis.table else "none",
        checkpoint=subject.checkpoint and subject.checkpoint.name,
        weights_digest=digest,
        dataset={"name": dataset["name"], "fingerprint": dataset["fingerprint"]},
        validation={}
        if val is None
        else {
            "rows": val["rows"],
            "tumours": val["tumours"],
            "metrics": {name: score["value"] for name, score in val["metrics"].items()},
        },
    )
    write_threshold(folder, threshold)
    if subject.run is not None and (subject.run.path / "checkpoints").is_dir():
        path = write_threshold(subject.run.path, threshold)
        log.info("threshold: %s", os.path.relpath(path))


def _describe(subject: Subject) -> str:
    if subject.checkpoint is None:
        return f"From the predictions in {next(iter(subject.predictions.values())).parent}"
    return f"Checkpoint {subject.checkpoint}"


if __name__ == "__main__":
    main()
