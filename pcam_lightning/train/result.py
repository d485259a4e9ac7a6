"""Result of a run: prediction tables, plots, `summary.json` and a table in the terminal."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from lightning import Callback, Trainer
from rich.box import SIMPLE
from rich.table import Table

from pcam_lightning.cli.terminal import Terminal
from pcam_lightning.data import PCamDataModule
from pcam_lightning.data.dataset import PatchDataset
from pcam_lightning.data.files import SPLIT_FILES, read_labels
from pcam_lightning.data.patch_features import compute
from pcam_lightning.engine.callbacks import Throughput
from pcam_lightning.engine.module import PCamClassifier, Predictions
from pcam_lightning.files import write_json
from pcam_lightning.metrics.calibration import prior_offset
from pcam_lightning.metrics.drift import reference
from pcam_lightning.metrics.predictions import read_predictions, write_predictions
from pcam_lightning.metrics.summary import describe_interval, format_interval, summarize
from pcam_lightning.plots import scores as plots
from pcam_lightning.plots.galleries import plot_gallery
from pcam_lightning.plots.history import plot_curves
from pcam_lightning.runs import Run
from pcam_lightning.runs.features import write_features
from pcam_lightning.runs.run import MissingRunFileError

FEATURE_PATCHES = 4096
"""Training patches whose appearance is kept: their distribution is known to 2 %."""
NOTABLE_OFFSET = 0.1
"""Error of the log-odds that is reported: at a share of tumour outside 47.5 to 52.5 %."""
SHOWN_METRICS = ("auroc", "average_precision", "accuracy", "f2", "sensitivity", "specificity")


def write_result(
    folder: Path,
    dataset_name: str,
    datamodule: PCamDataModule,
    predictions: Mapping[str, Predictions],
    facts: Mapping[str, Any],
    threshold: float = 0.5,
) -> dict[str, Any]:
    """Write `predictions/`, `plots/` and `summary.json` of a run, and return the summary.

    Args:
        folder: run folder, with the history of the run.
        dataset_name: name that labels every output.
        datamodule: datamodule after `setup`, with labels, slides and cleaning counts.
        predictions: predictions of "val" and "test".
        facts: further entries of the summary, such as seconds and the weights digest.
        threshold: probability from which a patch is classified as tumour, in (0, 1).
    """
    train_prevalence = float(np.mean(datamodule.datasets["train"].labels))
    summary: dict[str, Any] = {"dataset": dataset_name, **facts, "data": _data_facts(datamodule)}
    for split, predicted in predictions.items():
        path = folder / "predictions" / f"{split}.parquet"
        slides = datamodule.slides[split]
        row = predicted.row.numpy()
        slide = None if slides is None else slides[row]
        write_predictions(path, row, predicted.label.numpy(), predicted.logit.numpy(), slide)
        table = read_predictions(path)
        summary[split] = summarize(table, threshold, train_prevalence)
        title = f"{split}, dataset: {dataset_name}"
        scores = (table["label"], table["probability"])
        plot_folder = folder / "plots"
        plots.plot_roc(plot_folder / f"roc_{split}.png", *scores, title, threshold)
        plots.plot_precision_recall(plot_folder / f"pr_{split}.png", *scores, title, threshold)
        plots.plot_confusion(plot_folder / f"confusion_{split}.png", *scores, threshold, title)
        dataset = datamodule.datasets[SPLIT_FILES[split]]
        _plot_patches(plot_folder / f"patches_{split}.png", dataset, table, title)
    plot_curves(Run(folder), folder / "plots")
    write_features(folder, _training_features(datamodule))
    _plot_spikes(folder, datamodule, f"gradient spikes, dataset: {dataset_name}")
    write_json(folder / "summary.json", summary)
    return summary


def print_result(folder: Path, summary: Mapping[str, Any], balanced: bool) -> None:
    """Print metrics of validation and test beside constant baselines, and the paths of plots.

    Args:
        folder: run folder.
        summary: as from `write_result`.
        balanced: whether the training drew both classes equally often.
    """
    test = summary["test"]
    table = Table(box=SIMPLE, title=f"dataset: {summary['dataset']}", title_justify="left")
    table.add_column("", no_wrap=True)
    for column in ("val", "test", "95% interval", "all tumour", "majority"):
        table.add_column(column, justify="right", no_wrap=True)
    for name in SHOWN_METRICS:
        scores = test["metrics"][name]
        constants = [test["baselines"][constant][name] for constant in ("all_tumour", "majority")]
        mark = "!" if name in test["beaten_by_constant"] else ""
        table.add_row(
            name,
            _number(summary["val"]["metrics"][name]["value"]),
            _number(scores["value"]) + mark,
            format_interval(scores),
            *map(_number, constants),
        )
    console = Terminal()
    console.print(table)
    console.print(f"intervals {describe_interval(test['interval']['slides'])}", soft_wrap=True)
    if test["beaten_by_constant"]:
        console.print(f"! constants score as well: {', '.join(test['beaten_by_constant'])}")
    path = os.path.relpath(folder)
    share = test["train_prevalence"]
    if balanced and abs(prior_offset(share, 0.5)) >= NOTABLE_OFFSET:
        console.print(
            f"data.sampler=balanced drew both classes equally often, but {share:.1%} of the "
            "training patches are tumour: probabilities are wrong by as much, until "
            "`python -m pcam_lightning.evaluate` corrects them",
            soft_wrap=True,
        )
    console.print(f"plots: {path}/plots", soft_wrap=True)
    console.print(f"curves: tensorboard --logdir {path}", soft_wrap=True)


def _plot_patches(
    path: Path, dataset: PatchDataset, table: pd.DataFrame, title: str, count: int = 24
) -> None:
    """Plot evenly spaced patches of a split with their labels and predictions."""
    shown = table.iloc[np.unique(np.linspace(0, len(table) - 1, count).astype(int))]
    captions = [
        f"row {row}: {'tumour' if label else 'normal'}\np(tumour) {probability:.2f}"
        for row, label, probability in zip(
            shown["row"], shown["label"], shown["probability"], strict=True
        )
    ]
    patches = dataset.patches.map()[shown["row"].to_numpy()]
    plot_gallery(path, patches, captions, title)


def _plot_spikes(
    folder: Path, datamodule: PCamDataModule, title: str, spikes: int = 3, patches: int = 8
) -> None:
    """Plot the patches with the highest loss in the largest gradient spikes, if there are any."""
    try:
        table = Run(folder).gradients
    except MissingRunFileError:
        return
    table = table[table["rows"].notna()] if "rows" in table else table.iloc[:0]
    if table.empty:
        return
    # A norm that is not finite counts as infinite.
    times = np.where(np.isfinite(table["norm"]), table["norm"] / table["median"], np.inf)
    table = table.assign(times=times)
    table = table.sort_values("times", ascending=False, kind="stable").head(spikes)
    patches = min(patches, *map(len, table["rows"]))
    labels = read_labels(datamodule.files("train"))
    captions = [
        f"step {step}: {times:.1f} x median\nrow {row}: "
        f"{'tumour' if labels[row] else 'normal'}\nloss {loss:.2f}"
        for step, times, rows, losses in table[["step", "times", "rows", "losses"]].to_numpy()
        for row, loss in zip(rows[:patches], losses[:patches], strict=True)
    ]
    rows = np.concatenate([rows[:patches] for rows in table["rows"]])
    pixels = datamodule.datasets["train"].pixels[rows]
    plot_gallery(folder / "plots" / "gradient_spikes.png", pixels, captions, title, patches)


def _training_features(datamodule: PCamDataModule) -> dict[str, Any]:
    """Return the distribution of up to `FEATURE_PATCHES` evenly spaced training patches."""
    dataset = datamodule.datasets["train"]
    rows = np.unique(np.linspace(0, len(dataset) - 1, FEATURE_PATCHES).astype(int))
    return reference(compute(dataset.pixels[rows]))


def _data_facts(datamodule: PCamDataModule) -> dict[str, Any]:
    return {
        "rows": {split: len(dataset) for split, dataset in datamodule.datasets.items()},
        "dropped": datamodule.dropped,
        "normalization": dict(zip(("mean", "std"), datamodule.channel_statistics, strict=True)),
        "cleaning": {split: vars(changed) for split, changed in datamodule.cleaning().items()},
    }


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def determinism(trainer: Trainer) -> dict[str, Any]:
    """Return the settings on which bit-identical repetition depends, besides the hardware."""
    return {
        "ranks": trainer.world_size,
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
    }


def score_best(trainer: Trainer, module: PCamClassifier, datamodule: PCamDataModule) -> str | None:
    """Predict val and test with the best checkpoint, and return its path.

    The predictions are in `module.predictions`. Without a checkpoint callback, the current weights
    predict, and the path is None.
    """
    paths = [getattr(each, "best_model_path", None) for each in trainer.checkpoint_callbacks]
    best = next((path for path in paths if path), None)
    arguments: dict[str, Any] = dict(
        datamodule=datamodule, ckpt_path=best, verbose=False, weights_only=True
    )
    # The validation metrics of the best epoch are logged already, at their own step.
    loggers, trainer.loggers = trainer.loggers, []
    trainer.validate(module, **arguments)
    trainer.loggers = loggers
    trainer.test(module, **arguments)
    return best


def training_speed(trainer: Trainer) -> dict[str, float | None]:
    """Return training patches per second, and the share of time spent waiting for data.

    Both are means over all epochs since this start; None if not measured.
    """
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    meter = next((each for each in callbacks if isinstance(each, Throughput)), None)
    seconds = meter.seconds if meter else 0.0
    return {
        "training_patches_per_second": meter.patches / seconds if meter and seconds else None,
        "waiting_for_data": meter.waited / seconds if meter and seconds else None,
    }
