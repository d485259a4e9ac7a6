"""Results of one split as a plain dictionary for `summary.json`."""

import math
from typing import Any

import pandas as pd

from pcam_lightning.metrics.baselines import beaten_by_constant, constant_baselines
from pcam_lightning.metrics.intervals import metric_intervals
from pcam_lightning.metrics.metrics import compute_metrics
from pcam_lightning.metrics.resampling import Resampling


def summarize(
    predictions: pd.DataFrame,
    threshold: float,
    train_prevalence: float,
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Any]:
    """Return metrics with intervals, and constant baselines.

    Args:
        predictions: a table as from `read_predictions`; slides are resampled if it has a `slide`
            column, else patches.
        threshold: threshold of `is_tumour`; choose it on validation.
        train_prevalence: share of tumour among the training labels, in [0, 1].
        resamples, level, seed: as in `metric_intervals`.

    Returns:
        Strings, ints, floats, lists and dicts only; None for undefined numbers, since JSON has no
        NaN::

            {"rows": 32768, "tumours": 16377, "threshold": 0.5,
             "metrics": {"auroc": {"value": 0.95, "low": 0.94, "high": 0.96}, ...},
             "baselines": {"majority": {"auroc": 0.5, ...}, "all_tumour": {...}, ...},
             "train_prevalence": 0.5,
             "beaten_by_constant": ["f2"],
             "interval": {"unit": "slide", "slides": 8, "level": 0.95, "resamples": 8}}

    Raises:
        ValueError: as in `metric_intervals` and `constant_baselines`.
    """
    label, probability = predictions["label"].to_numpy(), predictions["probability"].to_numpy()
    slide = predictions["slide"].to_numpy() if "slide" in predictions else None
    metrics = compute_metrics(label, probability, threshold)
    intervals = metric_intervals(label, probability, threshold, slide, resamples, level, seed)
    resampling = Resampling(label, slide, resamples, seed)
    baselines = constant_baselines(label, train_prevalence, threshold)
    return {
        "rows": len(label),
        "tumours": int(label.sum()),
        "threshold": float(threshold),
        "metrics": {
            name: {
                "value": _jsonable(value),
                "low": _jsonable(intervals[name][0]),
                "high": _jsonable(intervals[name][1]),
            }
            for name, value in metrics.items()
        },
        "baselines": {
            constant: {name: _jsonable(value) for name, value in scores.items()}
            for constant, scores in baselines.items()
        },
        "train_prevalence": float(train_prevalence),
        "beaten_by_constant": beaten_by_constant(metrics, baselines),
        "interval": {
            "unit": resampling.unit,
            "slides": resampling.slides,
            "level": level,
            "resamples": len(resampling),
        },
    }


def _jsonable(value: float) -> float | None:
    return None if math.isnan(value) else value
