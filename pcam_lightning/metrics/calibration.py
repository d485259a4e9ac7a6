"""Does a probability of 0.8 mean that eight in ten are tumour? How far off, and what mends it.

Expected calibration error: patches are put into 15 equally wide bins of their probability of
tumour, and the gap between a bin's mean probability and its share of tumours is averaged, each bin
weighing as many patches as it holds (Naeini et al. 2015; with 15 bins, Guo et al. 2017). Even a
perfectly calibrated model scores above 0, since the labels of finitely many patches scatter; so
the error comes with what such a model would show.

Temperature scaling divides every logit by one number, fitted on validation by maximum likelihood
(Guo et al. 2017). It changes no ranking.
"""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar
from scipy.stats import norm

from pcam_lightning.metrics.bootstrap import draws
from pcam_lightning.metrics.predictions import sigmoid

BINS = 15
TEMPERATURES = 0.01, 100.0
"""The fit stays between them: where the logits tell the classes apart without a fault, or the wrong
way round, the likelihood has no maximum."""


def fit_temperature(label: ArrayLike, logit: ArrayLike) -> float | None:
    """The temperature in `TEMPERATURES` under which the labels are likeliest.

    Args:
        label: [N] of 0 or 1, of validation.
        logit: [N], finite.

    Returns:
        None where there is only one class, which has no such temperature.
    """
    y, z = np.asarray(label), np.asarray(logit, dtype=np.float64)
    if y.min() == y.max():
        return None
    margin = np.where(y == 1, -z, z)

    def loss(log_temperature: float) -> float:
        return float(np.mean(np.logaddexp(0.0, margin * np.exp(-log_temperature))))

    low, high = np.log(TEMPERATURES)
    fit: Any = minimize_scalar(loss, bounds=(low, high), method="bounded")
    return float(np.exp(fit.x))


def calibrated(logit: ArrayLike, temperature: float) -> NDArray[np.float64]:
    """sigmoid(logit / temperature), [N]."""
    return sigmoid(np.asarray(logit, dtype=np.float64) / temperature)


def reliability(label: ArrayLike, probability: ArrayLike) -> pd.DataFrame:
    """For each of the `BINS` that is not empty, what was said and what was true.

    Returns:
        Columns `bin` (its number), `rows`, `probability` (the mean), `tumours` (the share), and
        `low` and `high`, the share's 95 % interval as if patches were independent (Wilson 1927).
    """
    y, p = np.asarray(label, dtype=np.float64), np.asarray(probability, dtype=np.float64)
    place = _bins(p)
    rows = np.bincount(place, minlength=BINS)
    some = np.flatnonzero(rows)
    n = rows[some]
    share = np.bincount(place, y, BINS)[some] / n
    z = 1.959964
    center = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return pd.DataFrame(
        {
            "bin": some,
            "rows": n,
            "probability": np.bincount(place, p, BINS)[some] / n,
            "tumours": share,
            "low": np.clip(center - half, 0, 1),
            "high": np.clip(center + half, 0, 1),
        }
    )


def calibration_error(label: ArrayLike, probability: ArrayLike) -> float:
    """The expected calibration error, in [0, 1]. Arguments as in `compute_metrics`."""
    y, p = np.asarray(label, dtype=np.float64), np.asarray(probability, dtype=np.float64)
    return float(np.abs(np.bincount(_bins(p), p - y, BINS)).sum() / y.size)


def describe_error(
    label: ArrayLike,
    probability: ArrayLike,
    slide: ArrayLike | None = None,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, float]:
    """The expected calibration error with its interval, and what a perfect model would show.

    Scatter adds to the error of a sample, and of a resample once more, so that quantiles of
    resamples lie too high. The interval therefore reaches by the resamples' deviation to both
    sides of the error, and further down by twice what they exceed it on average; it begins at 0
    where a perfectly calibrated model with these probabilities would often show as much. In
    simulations it covers the truth in 95 to 99 % of samples for a level of 95 %.

    Args: as in `bootstrap_intervals`.

    Returns:
        `value`, `low`, `high`; `if_perfect` and `if_perfect_high`, the mean and the upper end of
        what labels drawn from these probabilities would give.
    """
    y, p = np.asarray(label, dtype=np.float64), np.asarray(probability, dtype=np.float64)
    place, gap, value = _bins(p), p - y, calibration_error(label, probability)
    drawn = np.array(
        [
            np.abs(np.bincount(place, weight * gap, BINS)).sum() / weight.sum()
            for weight in draws(y.size, slide, resamples, seed)
        ]
    )
    reach = float(norm.ppf((1 + level) / 2) * drawn.std())
    low = value - 2 * max(0.0, float(drawn.mean()) - value) - reach
    generator = np.random.default_rng(seed)
    order = np.argsort(place, kind="stable")
    expected = np.bincount(place, p, BINS)
    starts = np.flatnonzero(np.diff(place[order], prepend=-1))
    used, ranked = place[order][starts], p[order]
    perfect = np.empty(resamples)
    for i in range(resamples):
        tumours = np.add.reduceat(generator.random(y.size) < ranked, starts, dtype=np.int64)
        perfect[i] = np.abs(expected[used] - tumours).sum() / y.size
    upper = float(np.quantile(perfect, level))
    return {
        "value": value,
        "low": 0.0 if value <= upper else max(0.0, low),
        "high": min(1.0, value + reach),
        "if_perfect": float(perfect.mean()),
        "if_perfect_high": upper,
    }


def describe_fit(temperature: float | None) -> str | None:
    """What there is to say of a fitted temperature, if it is no ordinary one."""
    if temperature is None:
        return "no temperature: the validation labels are of one class"
    if min(temperature / TEMPERATURES[0], TEMPERATURES[1] / temperature) < 1.01:
        return f"temperature {temperature:.3g} is as far as the fit goes: no likeliest one exists"
    return None


def _bins(probability: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.minimum((probability * BINS).astype(np.int64), BINS - 1)
