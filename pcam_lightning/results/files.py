"""Files of a finished run: prediction tables, plots, features of the data and `summary.json`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from pcam_lightning.data import PCamDataModule
from pcam_lightning.data.dataset import PatchDataset
from pcam_lightning.data.files import SPLIT_FILES
from pcam_lightning.data.patch_features import compute
from pcam_lightning.engine.predictions import Predictions
from pcam_lightning.files import write_json
from pcam_lightning.metrics.drift import reference
from pcam_lightning.metrics.predictions import read_predictions, write_predictions
from pcam_lightning.metrics.summary import summarize
from pcam_lightning.models import Normalize
from pcam_lightning.plots import scores as plots
from pcam_lightning.plots.galleries import plot_gallery
from pcam_lightning.runs.features import write_features

FEATURE_PATCHES = 4096
"""Training patches whose appearance is kept: their distribution is known to 2 %."""


def write_result(
    folder: Path,
    dataset_name: str,
    datamodule: PCamDataModule,
    network: nn.Module,
    predictions: Mapping[str, Predictions],
    facts: Mapping[str, Any],
    threshold: float = 0.5,
) -> dict[str, Any]:
    """Write `predictions/`, `plots/` and `summary.json` of a run, and return the summary.

    Args:
        folder: run folder.
        dataset_name: name that labels every output.
        datamodule: datamodule after `setup`, with labels, slides and cleaning counts.
        network: with its layer `normalize`, if it has one.
        predictions: predictions of "val" and "test".
        facts: further entries of the summary, such as seconds and the weights digest.
        threshold: probability from which a patch is classified as tumour, in (0, 1).
    """
    train_prevalence = float(np.mean(datamodule.datasets["train"].labels))
    summary: dict[str, Any] = {
        "dataset": dataset_name,
        **facts,
        "data": _data_facts(datamodule, network),
    }
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
    write_features(folder, _training_features(datamodule))
    write_json(folder / "summary.json", summary)
    return summary


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


def _training_features(datamodule: PCamDataModule) -> dict[str, Any]:
    """Return the distribution of up to `FEATURE_PATCHES` evenly spaced training patches."""
    dataset = datamodule.datasets["train"]
    rows = np.unique(np.linspace(0, len(dataset) - 1, FEATURE_PATCHES).astype(int))
    return reference(compute(dataset.pixels[rows]))


def _data_facts(datamodule: PCamDataModule, network: nn.Module) -> dict[str, Any]:
    statistics = datamodule.channel_statistics
    if isinstance(layer := getattr(network, "normalize", None), Normalize):
        statistics = (layer.mean.flatten().tolist(), layer.std.flatten().tolist())
    return {
        "rows": {split: len(dataset) for split, dataset in datamodule.datasets.items()},
        "dropped": datamodule.dropped,
        "normalization": dict(zip(("mean", "std"), statistics, strict=True)),
        "cleaning": {split: vars(changed) for split, changed in datamodule.cleaning().items()},
    }
