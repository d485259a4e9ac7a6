"""Confidence intervals by resampling the test set.

Percentile bootstrap: draw N of N units with replacement, compute the metric, repeat, and take the
quantiles (Efron & Tibshirani 1993, An Introduction to the Bootstrap, ch. 13).

The unit is the slide if slides are known, else the patch. Patches of one slide share stain, scanner
and tumour; resampling them independently gives intervals that are too narrow. Drawing whole slides
keeps the dependence (cluster bootstrap, Field & Welsh 2007, J. R. Stat. Soc. B 69:369-390). With
fewer than about twenty slides, these intervals are still somewhat narrow.
"""

from collections.abc import Iterator
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from pcam_lightning.metrics.metrics import METRICS, Ranking

# Smallest share of resamples with a defined metric for which an interval is reported.
MINIMUM_DEFINED = 0.5


def resampling_unit(slide: ArrayLike | None) -> Literal["slide", "patch"]:
    """Return the unit to draw: "slide" if at least two distinct slides are known, else "patch"."""
    return "slide" if slide is not None and pd.unique(_flat(slide)).size >= 2 else "patch"


def bootstrap_intervals(
    label: ArrayLike,
    probability: ArrayLike,
    threshold: float = 0.5,
    slide: ArrayLike | None = None,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Return the percentile bootstrap interval of every metric.

    Args:
        label, probability, threshold: as in `compute_metrics`.
        slide: [N] slide names; whole slides are drawn if there are two or more.
        resamples: number of resamples, >= 1; 1,000 is customary for 95 % intervals.
        level: nominal coverage, in (0, 1).
        seed: the same table and seed give the same intervals.

    Returns:
        Metric name to (low, high), in the order of `METRICS`. Resamples with an undefined
        metric are excluded; (NaN, NaN) if they are more than half.

    Raises:
        ValueError: the table is invalid (see `compute_metrics`), slide names are missing or not N,
            or resamples or level is out of range.
    """
    if resamples < 1 or not 0 < level < 1:
        raise ValueError(f"need resamples >= 1 and 0 < level < 1, got {resamples} and {level}")
    ranking = Ranking(label, probability, threshold)
    drawn = draws(np.size(label), slide, resamples, seed)
    values = np.array([list(ranking.metrics(weight).values()) for weight in drawn])
    return _intervals(values, level)


def bootstrap_differences(
    label: ArrayLike,
    probabilities: tuple[ArrayLike, ArrayLike],
    thresholds: tuple[float, float] = (0.5, 0.5),
    slide: ArrayLike | None = None,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Return the percentile bootstrap interval of each metric's difference, second minus first.

    Both predictors are scored on the same resamples, so that common variation cancels.
    Arguments, result and errors are as in `bootstrap_intervals`.
    """
    first, second = (
        Ranking(label, probability, threshold)
        for probability, threshold in zip(probabilities, thresholds, strict=True)
    )
    values = np.array(
        [
            np.subtract(list(second.metrics(w).values()), list(first.metrics(w).values()))
            for w in draws(np.size(label), slide, resamples, seed)
        ]
    )
    return _intervals(values, level)


def bootstrap_means(
    values: NDArray[np.float64],
    slide: ArrayLike | None = None,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> list[tuple[float, float]]:
    """Return the percentile bootstrap interval of the mean of each column of `values` [N, K].

    Other arguments are as in `bootstrap_intervals`.
    """
    drawn = draws(len(values), slide, resamples, seed)
    means = np.array([weight @ values / weight.sum() for weight in drawn])
    return [percentile_interval(means[:, i], level) for i in range(values.shape[1])]


def draws(
    rows: int, slide: ArrayLike | None, resamples: int, seed: int
) -> Iterator[NDArray[np.int64]]:
    """Yield the number of draws of each row, int64 [rows], for each resample.

    Raises:
        ValueError: slide names are missing or not one per row.
    """
    if slide is not None and resampling_unit(slide) == "slide":
        unit, names = pd.factorize(_flat(slide))
        if unit.size != rows or (unit < 0).any():
            raise ValueError(f"slide must name a slide for each of the {rows} rows")
        units = len(names)
    else:
        unit, units = None, rows
    generator = np.random.default_rng(seed)
    for _ in range(resamples):
        # Counts suffice: a resample is a weighting of the sorted table, never a copy.
        drawn = np.bincount(generator.integers(units, size=units), minlength=units)
        yield drawn if unit is None else drawn[unit]


def percentile_interval(values: NDArray[np.float64], level: float) -> tuple[float, float]:
    """Return the central `level` interval of a metric over resamples, [resamples].

    NaN marks undefined resamples; the result is (NaN, NaN) if they are more than half.
    """
    tail = (1 - level) / 2
    defined = values[~np.isnan(values)]
    if defined.size < MINIMUM_DEFINED * values.size:
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [tail, 1 - tail])
    return float(low), float(high)


def _intervals(values: NDArray[np.float64], level: float) -> dict[str, tuple[float, float]]:
    return {name: percentile_interval(values[:, i], level) for i, name in enumerate(METRICS)}


def _flat(slide: ArrayLike) -> NDArray[np.object_]:
    return np.asarray(slide, dtype=object).ravel()
