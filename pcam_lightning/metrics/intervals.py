"""Confidence intervals of metrics, of their differences and of means, from `Resampling`.

By patch, draws from a few tumours that are all found cannot show that one may be missed. So
proportions have Wilson's interval (Wilson 1927). The other metrics of the confusion matrix have
quantiles over matrices drawn from a Dirichlet distribution with half a patch more in each cell
(Goutte & Gaussier 2005, for F-scores). AUROC with fewer than `FEW` patches of a class has the
interval of Newcombe 2006 (Statistics in Medicine 25:559-573, method 5). All others have quantiles
over draws of patches.

By slide, the jackknife's interval is computed on a scale without bounds, log-odds or logarithm, and
transformed back; near a bound it would otherwise reach beyond it and cover too little. A metric at
a bound, such as a sensitivity of 1, does not vary over resamples: its interval is the one that a
single wrong patch would give, up to the bound.

`scripts/interval_coverage.py` measures the coverage of these intervals.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, ndtri

from pcam_lightning.metrics.metrics import METRICS, Ranking, is_tumour
from pcam_lightning.metrics.resampling import Resampling, check_level

COSTS = frozenset({"brier", "log_loss"})
SMALLEST_COST = 1e-12
FEW = 30
"""Patches of a class below which draws give too narrow intervals of AUROC."""


class Confusion(NamedTuple):
    """Confusion matrix: numbers of patches, or arrays of them."""

    tp: Any
    fn: Any
    fp: Any
    tn: Any

    @classmethod
    def of(cls, label: ArrayLike, probability: ArrayLike, threshold: float) -> "Confusion":
        """Count the decisions of a table."""
        tumour, predicted = np.asarray(label) == 1, is_tumour(np.asarray(probability), threshold)
        cells = tumour & predicted, tumour & ~predicted, ~tumour & predicted, ~tumour & ~predicted
        return cls(*(np.float64(np.sum(each)) for each in cells))

    def trials(self, name: str) -> float:
        """Return the denominator of a proportion, and for others the size of the smaller class."""
        tp, fn, fp, tn = self
        denominators = {
            "accuracy": tp + fn + fp + tn,
            "sensitivity": tp + fn,
            "specificity": fp + tn,
            "precision": tp + fp,
        }
        return float(denominators.get(name, min(tp + fn, fp + tn)))

    def metric(self, name: str) -> Any:
        """Return a metric that depends on these counts only and is no proportion, else None."""
        tp, fn, fp, tn = self
        match name:
            case "balanced_accuracy":
                return (tp / (tp + fn) + tn / (tn + fp)) / 2
            case "f1":
                return 2 * tp / (2 * tp + fn + fp)
            case "f2":
                return 5 * tp / (5 * tp + 4 * fn + fp)
        return None


PROPORTIONS = frozenset({"accuracy", "sensitivity", "specificity", "precision"})


def metric_intervals(
    label: ArrayLike,
    probability: ArrayLike,
    threshold: float = 0.5,
    slide: ArrayLike | None = None,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Return the interval of every metric.

    Args:
        label, probability, threshold: as in `compute_metrics`.
        slide, resamples, seed: as in `Resampling`.
        level: nominal coverage, in (0, 1).

    Returns:
        Metric name to (low, high), in the order of `METRICS`; (NaN, NaN) where it has no interval.

    Raises:
        ValueError: the table is invalid (see `compute_metrics` and `Resampling`), or level is out
            of range.
    """
    check_level(level)
    ranking = Ranking(label, probability, threshold)
    resampling = Resampling(label, slide, resamples, seed)
    values = np.array([list(ranking.metrics(weight).values()) for weight in resampling])
    confusion = Confusion.of(label, probability, threshold)
    return {
        name: metric_interval(name, value, values[:, i], confusion, resampling, level)
        for i, (name, value) in enumerate(ranking.metrics().items())
    }


def metric_interval(
    name: str,
    value: float,
    values: NDArray[np.float64],
    confusion: Confusion,
    resampling: Resampling,
    level: float = 0.95,
    degrees: float | None = None,
) -> tuple[float, float]:
    """Return the interval of one of `METRICS`.

    Args:
        name: name of the metric.
        value: the metric.
        values: its values over all resamples.
        confusion: the confusion matrix of the same patches.
        resampling, level, degrees: as in `Resampling.interval`.
    """
    nothing = float("nan"), float("nan")
    if np.isnan(value) or not resampling.has_intervals:
        return nothing
    if resampling.unit == "patch":
        return _interval_by_patch(name, value, values, confusion, resampling, level)
    if np.isnan(values).any():  # a single slide has all patches of a class
        return nothing
    if name in COSTS:
        log = np.log(np.maximum([value, *values], SMALLEST_COST))
        low, high = np.exp(resampling.interval(log[0], log[1:], level, degrees))
        return float(low), float(min(high, 1.0) if name == "brier" else high)
    n = confusion.trials(name)
    if value in (0, 1):
        degrees = resampling.degrees if degrees is None else degrees
        low = _low_end_at_one(n, degrees, resampling.quantile(level, degrees))
        return (low, 1.0) if value == 1 else (0.0, 1 - low)
    odds = _log_odds(np.array([value, *values]), n)
    ends = np.array(resampling.interval(odds[0], odds[1:], level, degrees))
    low, high = np.clip(_share(ends, n), 0, 1)
    return float(low), float(high)


def _low_end_at_one(trials: float, degrees: float, quantile: float) -> float:
    """Return the low end of an interval by slide around a share of 1.

    It is that of a share with one failure in one of `degrees` + 1 equally large slides, whose
    jackknife has two values: with the failure, and without it.
    """
    slides = degrees + 1
    if trials * degrees <= slides:  # about one trial
        return 0.0
    value, with_failure, without = _log_odds(
        np.array([1 - 1 / trials, 1 - slides / (trials * degrees), 1.0]), trials
    )
    error = (without - with_failure) * degrees / slides
    return float(np.clip(_share(value - quantile * error, trials), 0, 1))


def _log_odds(share: Any, trials: float) -> Any:
    """Return log-odds, finite because of half a success and half a failure more."""
    successes = share * trials
    return np.log((successes + 0.5) / (trials - successes + 0.5))


def _share(log_odds: Any, trials: float) -> Any:
    """Return the share with these log-odds; `_share(_log_odds(x, n), n) == x`."""
    return (expit(log_odds) * (trials + 1) - 0.5) / trials


def _interval_by_patch(
    name: str,
    value: float,
    values: NDArray[np.float64],
    confusion: Confusion,
    resampling: Resampling,
    level: float,
) -> tuple[float, float]:
    trials = confusion.trials(name)
    if name in PROPORTIONS:
        return wilson(value * trials, trials, level)
    if confusion.metric(name) is not None:
        generator = np.random.default_rng(resampling.seed)
        drawn = generator.dirichlet(np.add(confusion, 0.5), len(resampling)).T
        return resampling.interval(value, Confusion(*drawn).metric(name), level)
    if name == "auroc" and (value in (0, 1) or trials < FEW):
        return _newcombe(value, confusion.tp + confusion.fn, confusion.fp + confusion.tn, level)
    if name == "average_precision" and value == 1:
        return wilson(trials, trials, level)
    return resampling.interval(value, values, level)


def wilson(successes: float, trials: float, level: float = 0.95) -> tuple[float, float]:
    """Return the interval of a proportion (Wilson 1927); (NaN, NaN) without trials."""
    if trials == 0:
        return float("nan"), float("nan")
    z, share = float(ndtri((1 + level) / 2)), successes / trials
    scale = 1 + z * z / trials
    center = (share + z * z / (2 * trials)) / scale
    half = z / scale * np.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    low = 0.0 if successes == 0 else float(max(0.0, center - half))
    return low, 1.0 if successes == trials else float(min(1.0, center + half))


def _newcombe(value: float, tumours: float, normals: float, level: float) -> tuple[float, float]:
    """Return the interval of an AUROC (Newcombe 2006, method 5).

    A bound is the AUROC whose standard error (Hanley & McNeil 1982, for exponential scores)
    explains the distance to the measured one.
    """
    z, pairs = float(ndtri((1 + level) / 2)), (tumours + normals) / 2 - 1

    def error(true: float) -> float:
        spread = 1 + pairs * (1 - true) / (2 - true) + pairs * true / (1 + true)
        return z * np.sqrt(true * (1 - true) * spread / (tumours * normals))

    tiny = 1e-9  # at the value itself the distance is zero, which is no bound
    from scipy.optimize import brentq  # not before the first training step

    low = brentq(lambda true: value - true - error(true), 0, value - tiny) if value > tiny else 0.0
    high = brentq(lambda true: true - value - error(true), value + tiny, 1) if value < 1 else 1.0
    return float(low), float(high)  # type: ignore[arg-type]


def difference_intervals(
    label: ArrayLike,
    probabilities: tuple[ArrayLike, ArrayLike],
    thresholds: tuple[float, float] = (0.5, 0.5),
    slide: ArrayLike | None = None,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Return the interval of each metric's difference, second minus first.

    Both predictors are scored on the same resamples, so that common variation cancels. Arguments,
    result and errors are as in `metric_intervals`.
    """
    check_level(level)
    first, second = (
        Ranking(label, probability, threshold)
        for probability, threshold in zip(probabilities, thresholds, strict=True)
    )
    resampling = Resampling(label, slide, resamples, seed)

    def differences(weight: NDArray[np.int64] | None) -> NDArray[np.float64]:
        scores = [list(each.metrics(weight).values()) for each in (first, second)]
        return np.subtract(scores[1], scores[0])

    value = differences(None)
    values = np.array([differences(weight) for weight in resampling])
    return {
        name: resampling.interval(float(value[i]), values[:, i], level)
        for i, name in enumerate(METRICS)
    }


def mean_intervals(
    values: NDArray[np.float64], resampling: Resampling, level: float = 0.95
) -> list[tuple[float, float]]:
    """Return the interval of the mean of each column of `values` [N, K]."""
    means = np.array([weight @ values / max(1, weight.sum()) for weight in resampling])
    return [
        resampling.interval(float(values[:, i].mean()), means[:, i], level)
        for i in range(values.shape[1])
    ]
