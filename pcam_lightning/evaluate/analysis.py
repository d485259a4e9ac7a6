"""Analysis of predictions: threshold, metrics, calibration, slices, examples."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pcam_lightning.data.patch_features import FEATURES
from pcam_lightning.errors import InputError
from pcam_lightning.evaluate.selection import Selection, select_examples, worst_slice
from pcam_lightning.evaluate.slices import cut, score_slices
from pcam_lightning.files import atomic_write
from pcam_lightning.metrics.abstention import describe_abstention
from pcam_lightning.metrics.baselines import not_beyond_constant
from pcam_lightning.metrics.calibration import (
    BINS,
    calibrated,
    calibration_error,
    describe_error,
    fit_temperature,
)
from pcam_lightning.metrics.intervals import difference_intervals, mean_intervals
from pcam_lightning.metrics.metrics import compute_metrics, row_costs
from pcam_lightning.metrics.predictions import save_table
from pcam_lightning.metrics.resampling import Resampling
from pcam_lightning.metrics.summary import summarize
from pcam_lightning.metrics.thresholds import choose_threshold, parse_rule
from pcam_lightning.plots import scores as plots
from pcam_lightning.runs.tables import csv_bytes

PLAIN_LOGIT = "logit_without_tta"
"""The column with the logit before test-time augmentation; only augmented tables have it."""


@dataclass(frozen=True)
class Analysis:
    """Results of the analysis of one split."""

    split: str
    table: pd.DataFrame
    summary: dict[str, Any]
    slices: pd.DataFrame
    """The table that `score_slices` returns."""
    selections: list[Selection]

    @property
    def threshold(self) -> float:
        """The probability from which a patch is classified as tumour."""
        return self.summary["threshold"]["value"]


def analyze(
    tables: Mapping[str, pd.DataFrame],
    split: str,
    train_prevalence: float,
    *,
    prior_offset: float = 0.0,
    threshold: str | float = "max_fbeta",
    beta: float = 2.0,
    cost_ratio: float = 10.0,
    slices: Mapping[str, Any] | None = None,
    gallery: int = 24,
    resamples: int = 1000,
    seed: int = 0,
) -> Analysis:
    """Choose threshold and temperature on validation, and analyze `split`.

    The result depends on the arguments only.

    Args:
        tables: "val" and "test" to tables from `read_predictions`. The table of `split` is
            required, and "val" too unless the threshold is a number.
        split: "val" or "test".
        train_prevalence: as in `constant_baselines`.
        prior_offset: added to logits before the temperature (see `metrics.calibration`).
        threshold, beta, cost_ratio: as in `thresholds`.
        slices: as in `slices.cut`.
        gallery: maximum number of patches in each selection.
        resamples, seed: as in `metric_intervals`.

    Returns:
        An analysis whose `summary` has the keys `split`, `threshold`, `temperature`,
        `prior_offset`, `val` and `test` (results of `summarize`, for each table given),
        `not_beyond_constant`, `calibration`, `abstention`, `slices`, `tta`. It holds JSON types,
        and NaN for undefined numbers.

    Raises:
        InputError: the rule finds no threshold, a slice cannot be cut, or a column of patch
            features or logits has values other than finite numbers.
    """
    rule, val, table = parse_rule(threshold), tables.get("val"), tables[split]
    for name, each in tables.items():
        _check_numbers(name, each)
    if val is None and rule.kind != "fixed":
        raise InputError(
            f"evaluate.threshold={threshold}: no validation predictions to choose on; expected "
            "val.parquet beside test.parquet, or a number such as evaluate.threshold=0.5"
        )
    chosen = plain_chosen = float(rule.target)
    temperature, note = None, "no temperature: no validation predictions"
    if val is not None:
        chosen = choose_threshold(val["label"], val["probability"], rule, beta, cost_ratio)
        temperature, note = fit_temperature(val["label"], val["logit"], prior_offset)
        plain_chosen = chosen
        if PLAIN_LOGIT in val:
            plain = calibrated(val[PLAIN_LOGIT], None)
            plain_chosen = choose_threshold(val["label"], plain, rule, beta, cost_ratio)
    summary: dict[str, Any] = {
        "split": split,
        "threshold": {
            "value": chosen,
            "rule": str(threshold),
            "beta": beta if rule.kind == "max_fbeta" else None,
            "cost_ratio": cost_ratio if rule.kind == "cost" else None,
            "chosen_on": None if rule.kind == "fixed" else "val",
        },
        "temperature": temperature,
        "prior_offset": prior_offset,
    }
    for name in ("val", "test"):
        if name in tables:
            summary[name] = summarize(
                tables[name], chosen, train_prevalence, resamples=resamples, seed=seed
            )
    label, probability, slide = _columns(table)
    summary["not_beyond_constant"] = not_beyond_constant(
        label, probability, chosen, train_prevalence, slide, resamples, seed=seed
    )
    summary["calibration"] = {
        "note": note,
        **_calibration(table, temperature, prior_offset, train_prevalence, resamples, seed),
    }
    summary["abstention"] = describe_abstention(label, table["logit"], chosen)
    parts = cut(table, table if val is None else val, slices or {})
    scored = score_slices(table, parts, chosen, resamples, seed=seed)
    summary["slices"] = {
        "cut_points_from": split if val is None else "val",
        "slides_known": slide is not None,
        "scored": len(parts),
        "worse": [
            {"property": each.property, "slice": each.slice, "metrics": each.worse.split()}
            | {"note": each.note}
            for each in scored.iloc[1:].itertuples()
            if each.worse
        ],
    }
    summary["tta"] = _gain(table, (plain_chosen, chosen), resamples, seed)
    selections = select_examples(table, chosen, worst_slice(parts, scored), gallery)
    return Analysis(split, table, summary, scored, selections)


def write_analysis(folder: Path, analysis: Analysis, tables: Mapping[str, pd.DataFrame],
                   title: str) -> dict[str, Path]:  # fmt: skip
    """Write `plots/`, `slices.csv` and `slices.parquet`, and return the plots by name.

    Args:
        folder: the run folder.
        analysis: the results to write.
        tables: the tables that were analyzed.
        title: text in the title of every plot, after the split.
    """
    split, threshold = analysis.split, analysis.threshold
    label, probability = analysis.table["label"], analysis.table["probability"]
    heading, pictures = f"{split}, {title}", folder / "plots"
    chosen_on = "val" if "val" in tables else split
    paths = {
        name: pictures / f"{name}.png"
        for name in (f"threshold_{chosen_on}", f"roc_{split}", f"pr_{split}", f"confusion_{split}",
                     f"coverage_{split}", f"reliability_{split}", f"slices_{split}")
    }  # fmt: skip
    threshold_path, roc, pr, confusion, coverage, reliability, slices = paths.values()
    beta = analysis.summary["threshold"]["beta"] or 2.0
    source = tables[chosen_on]
    plots.plot_thresholds(
        threshold_path, source["label"], source["probability"], threshold,
        f"{chosen_on}, {title}", beta,
    )  # fmt: skip
    plots.plot_roc(roc, label, probability, heading, threshold)
    plots.plot_precision_recall(pr, label, probability, heading, threshold)
    plots.plot_confusion(confusion, label, probability, threshold, heading)
    plots.plot_coverage(coverage, label, analysis.table["logit"], threshold, heading)
    probabilities = {"uncalibrated": probability.to_numpy()}
    temperature, offset = analysis.summary["temperature"], analysis.summary["prior_offset"]
    if analysis.summary["calibration"]["after"] is not None:
        after = calibrated(analysis.table["logit"], temperature, offset)
        probabilities[describe_calibration(temperature, offset)] = after
    plots.plot_reliability(reliability, label, probabilities, heading)
    plots.plot_slices(slices, analysis.slices, heading)
    atomic_write(folder / "slices.csv", csv_bytes(analysis.slices))
    save_table(folder / "slices.parquet", analysis.slices)
    return paths


def describe_calibration(temperature: float | None, offset: float) -> str:
    """Return what a calibration does to logits, as text."""
    parts = [f"prior offset {offset:+.3g}"] if offset else []
    return ", ".join(parts + ([f"temperature {temperature:.3g}"] if temperature else []))


def _calibration(
    table: pd.DataFrame,
    temperature: float | None,
    offset: float,
    train_prevalence: float,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    label, before, slide = _columns(table)

    def describe(probability: np.ndarray) -> dict[str, Any]:
        scores = compute_metrics(label, probability)
        error = describe_error(label, probability, slide, resamples, seed=seed)
        return {"ece": error, "brier": scores["brier"], "log_loss": scores["log_loss"]}

    constant = np.full(len(label), train_prevalence)
    found: dict[str, Any] = {
        "bins": BINS,
        "constant_ece": calibration_error(label, constant),
        "before": describe(before),
        "after": None,
        "change": None,
    }
    if temperature is not None or offset:
        after = calibrated(table["logit"], temperature, offset)
        found["after"] = describe(after)
        # Both scores are means over patches, so the differences can be resampled directly.
        costs = [row_costs(label, probability) for probability in (before, after)]
        resampling = Resampling(label, slide, resamples, seed)
        intervals = mean_intervals(costs[1] - costs[0], resampling)
        found["change"] = {
            name: {"value": found["after"][name] - found["before"][name], "low": low, "high": high}
            for name, (low, high) in zip(("brier", "log_loss"), intervals, strict=True)
        }
    return found


def _check_numbers(split: str, table: pd.DataFrame) -> None:
    for name in table.columns.intersection([*FEATURES, PLAIN_LOGIT]):
        values = table[name].to_numpy()
        if values.dtype.kind not in "iuf" or not np.isfinite(values).all():
            raise InputError(f"{split} predictions: column {name}: expected finite numbers")


def _columns(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    slide = table["slide"].to_numpy() if "slide" in table else None
    return table["label"].to_numpy(), table["probability"].to_numpy(), slide


def _gain(
    table: pd.DataFrame, thresholds: tuple[float, float], resamples: int, seed: int
) -> dict[str, Any] | None:
    """Return the change of each metric by test-time augmentation, None for plain predictions.

    Args:
        table: the predictions.
        thresholds: chosen by the same rule without and with augmentation. One threshold for both
            would favor the logits that it was chosen on.
        resamples, seed: as in `metric_intervals`.
    """
    if PLAIN_LOGIT not in table:
        return None
    label, after, slide = _columns(table)
    before = calibrated(table[PLAIN_LOGIT], None)
    scores = [
        compute_metrics(label, each, threshold)
        for each, threshold in zip((before, after), thresholds, strict=True)
    ]
    intervals = difference_intervals(
        label, (before, after), thresholds, slide, resamples, seed=seed
    )
    gain = {
        name: {"value": scores[1][name] - scores[0][name], "low": low, "high": high}
        for name, (low, high) in intervals.items()
    }
    return {"gain": gain, "thresholds": list(thresholds)}
