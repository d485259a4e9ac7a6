"""Confidence intervals by resampling the test set.

Percentile bootstrap: draw as many units with replacement as there are, compute the metric, repeat,
and take the quantiles (Efron & Tibshirani 1993, An Introduction to the Bootstrap, ch. 13).

The unit is the patch, or the slide where slides are known. Patches of one slide share stain,
scanner and tumour, so they say less than as many independent ones; resampling them singly gives
intervals that are too narrow. Drawing whole slides keeps that dependence (the cluster bootstrap of
Field & Welsh 2007, J. R. Stat. Soc. B 69:369-390). With fewer than about twenty slides even those
intervals run somewhat narrow.
"""

from collections.abc import Iterator
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from pcam_lightning.metrics.metrics import METRICS, Ranking

# Below this share of resamples in which a metric is defined there is no interval: it would
# describe only the lucky draws.
MINIMUM_DEFINED = 0.5


def resampling_unit(slide: ArrayLike | None) -> Literal["slide", "patch"]:
    """What is drawn: slides where at least two distinct ones are known, patches otherwise."""
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
    """Percentile bootstrap interval of every metric.

    Args:
        label, probability, threshold: as in `compute_metrics`.
        slide: [N] slide names; whole slides are drawn if there are two or more.
        resamples: number of resamples, >= 1; 1,000 is customary for 95 % intervals.
        level: coverage aimed at, in (0, 1).
        seed: the same table and seed give the same intervals.

    Returns:
        Metric name to (low, high), in the order of `METRICS`. Resamples in which a metric is
        undefined are left out of it; (NaN, NaN) if that is more than half of them.

    Raises:
        ValueError: a bad table as in `compute_metrics`, missing or miscounted slide names, or
            resamples or level out of range.
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
    """Percentile bootstrap interval of every metric's difference, second minus first predictor.

    Both are scored on the same resamples of the same rows, so what makes a resample easy or hard
    for both cancels out. Arguments, result and errors as in `bootstrap_intervals`.
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
    """Percentile bootstrap interval of the mean of each column of `values` [N, K]; the others as in
    `bootstrap_intervals`."""
    drawn = draws(len(values), slide, resamples, seed)
    means = np.array([weight @ values / weight.sum() for weight in drawn])
    return [percentile_interval(means[:, i], level) for i in range(values.shape[1])]


def draws(
    rows: int, slide: ArrayLike | None, resamples: int, seed: int
) -> Iterator[NDArray[np.int64]]:
    """How often each row was drawn, [rows], for each resample; arguments as above.

    Raises:
        ValueError: missing or miscounted slide names.
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
        # How often each unit was drawn is all a metric needs: a resample is a weighting of the
        # sorted table, never a copy of it.
        drawn = np.bincount(generator.integers(units, size=units), minlength=units)
        yield drawn if unit is None else drawn[unit]


def percentile_interval(values: NDArray[np.float64], level: float) -> tuple[float, float]:
    """The middle `level` of what a metric was in each resample, [resamples], NaN where undefined.

    (NaN, NaN) where it was undefined in more than half of them.
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
