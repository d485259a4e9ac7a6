"""Evaluation of a model: threshold, metrics with intervals, calibration, slices, galleries.

python -m pcam_lightning.evaluate run=FOLDER evaluate.threshold="'recall>=0.95'"
"""

import logging
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig

from pcam_lightning.cli.command import Config, command, save_resolved
from pcam_lightning.cli.licenses import print_license
from pcam_lightning.evaluate.target import EvaluationTarget, resolve_target
from pcam_lightning.files import write_json
from pcam_lightning.runs.manifest import collect_manifest
from pcam_lightning.runs.status import recording
from pcam_lightning.runs.threshold import Threshold, write_threshold
from pcam_lightning.weights.license import license_facts

if TYPE_CHECKING:
    from pcam_lightning.evaluate.analysis import Analysis
    from pcam_lightning.evaluate.predict import Inference

log = logging.getLogger(__name__)

ANALYSIS_OPTIONS = ("threshold", "beta", "cost_ratio", "slices", "gallery", "resamples")
"""Keys of the section `evaluate` that are arguments of `analyze`."""


@command("evaluate")
def main(config: Config) -> Path:
    folder = Path(config["run_dir"])
    overrides = HydraConfig.get().overrides.task
    target = resolve_target(config, overrides)
    manifest = collect_manifest(command=sys.orig_argv, seed=config["seed"], dataset={})
    with recording(folder, manifest):
        save_resolved(target.config, folder)
        evaluate(target, folder, manifest)
    return folder / "summary.json"


def evaluate(target: EvaluationTarget, folder: Path, manifest: dict[str, Any]) -> None:
    """Write all results of an evaluation into its run folder.

    Args:
        target: the model or predictions to evaluate.
        folder: the evaluation's run folder.
        manifest: of the evaluation; the data set is added to it.
    """
    from pcam_lightning.evaluate.analysis import analyze, write_analysis
    from pcam_lightning.evaluate.ensemble import mean_predictions
    from pcam_lightning.evaluate.galleries import draw_galleries
    from pcam_lightning.evaluate.page import write_page
    from pcam_lightning.evaluate.patches import PatchSource
    from pcam_lightning.evaluate.report import print_report
    from pcam_lightning.metrics.predictions import save_table

    start = time.monotonic()
    config, options = target.config, target.config["evaluate"]
    inference = None
    if target.checkpoint is None:
        dataset, paths = target.saved_dataset(), target.predictions
    else:
        from pcam_lightning.evaluate.predict import infer  # imports torch

        inference = infer(target, folder)
        dataset = inference.dataset
        paths = {split: [path] for split, path in inference.tables.items()}
    write_json(folder / "manifest.json", manifest | {"dataset": dataset})
    tables = {split: mean_predictions(files) for split, files in paths.items()}
    patch_source = PatchSource(dataset["root"], config["data"], tables)
    # `infer` has already read the slides, and warned of meta files that cannot be used.
    tables = patch_source.with_features(options["hospitals"], with_slides=inference is None)
    for split, table in tables.items():
        save_table(folder / "predictions" / f"{split}.parquet", table)
    prevalence, source = patch_source.prevalence(target.recorded_prevalence())
    arguments = {name: options[name] for name in ANALYSIS_OPTIONS}
    arguments["prior_offset"] = target.recorded_prior_offset()
    analysis = analyze(tables, config["split"], prevalence, seed=config["seed"], **arguments)
    title = f"dataset: {dataset['name']}"
    plots = write_analysis(folder, analysis, tables, title)
    model, method = inference and inference.model, options["attribution"]
    galleries, facts = draw_galleries(folder, analysis, patch_source, model, method, title)
    summary: dict[str, Any] = {
        "dataset": dataset["name"],
        "subject": target.description,
        "run": target.run and target.run.path,
        "checkpoint": target.checkpoint,
        "predictions": {split: [str(path) for path in files] for split, files in paths.items()},
        "train_prevalence": {"value": prevalence, "source": source},
        **analysis.summary,
        **facts,
        "inference": inference and inference.facts,
        "backbone": license_facts(inference.backbone if inference else target.recorded_backbone()),
        "seconds": time.monotonic() - start,
    }
    save_threshold(target, folder, analysis, dataset, inference)
    write_page(folder / "page.html", summary, analysis, plots, galleries)
    write_json(folder / "summary.json", summary)
    print_report(summary, analysis)
    print_license(summary["backbone"])
    print(f"page: {os.path.relpath(folder)}/page.html")


def save_threshold(
    target: EvaluationTarget,
    folder: Path,
    analysis: "Analysis",
    dataset: dict[str, Any],
    inference: "Inference | None",
) -> None:
    """Write `threshold.json` into the evaluation's folder and into the run folder of the model."""
    from pcam_lightning.evaluate.analysis import PLAIN_LOGIT

    facts, val = analysis.summary["threshold"], analysis.summary.get("val")
    digest = inference.facts["weights_digest"] if inference else target.recorded_digest()
    threshold = Threshold(
        value=facts["value"],
        rule=facts["rule"],
        temperature=analysis.summary["temperature"],
        prior_offset=analysis.summary["prior_offset"],
        tta="d4" if PLAIN_LOGIT in analysis.table else "none",
        checkpoint=target.checkpoint and target.checkpoint.name,
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
    if target.run is not None and (target.run.path / "checkpoints").is_dir():
        try:
            path = write_threshold(target.run.path, threshold)
            log.info("threshold: %s", os.path.relpath(path))
        except OSError as error:  # for example the run of another user
            reason = error.strerror or error
            log.warning("threshold.json is not written to the run %s: %s", target.run.path, reason)


if __name__ == "__main__":
    main()
