"""Calibration: expected calibration error, reliability bins, temperature scaling.

Expected calibration error: mean gap between predicted probability and share of tumours in 15
equally wide bins, weighted by the number of patches (Naeini et al. 2015; 15 bins: Guo et al. 2017).
Even a perfectly calibrated model scores above 0 on finitely many patches, so the error is reported
with the value that such a model would have.

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
"""Bounds of the fit. The likelihood has no maximum if the logits separate the classes perfectly, or
in the reverse order."""


def fit_temperature(label: ArrayLike, logit: ArrayLike) -> float | None:
    """Return the temperature in `TEMPERATURES` with the highest likelihood of the labels.

    Args:
        label: [N] of 0 or 1, from validation.
        logit: [N], finite.

    Returns:
        None if all labels are of one class: no temperature has the highest likelihood.
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
    """Return sigmoid(logit / temperature), float64 [N]."""
    return sigmoid(np.asarray(logit, dtype=np.float64) / temperature)


def reliability(label: ArrayLike, probability: ArrayLike) -> pd.DataFrame:
    """Return predicted probability and share of tumours of each bin that is not empty.

    Returns:
        Columns `bin` (number), `rows`, `probability` (mean), `tumours` (share), and `low` and
        `high`, the 95 % interval of the share for independent patches (Wilson 1927).
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
    """Return the expected calibration error, in [0, 1]. Arguments as in `compute_metrics`."""
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
    """Return the expected calibration error, its interval, and the error of a perfect model.

    Sampling noise raises the error of a sample, and again that of a resample, so that percentile
    intervals lie too high. The interval is the error plus and minus the normal quantile times the
    resamples' standard deviation; its lower end is reduced further by twice their mean excess over
    the error. It starts at 0 if a perfectly calibrated model often has such an error. In
    simulations it covers the true error in 95 to 99 % of samples at a level of 95 %.

    Args: as in `bootstrap_intervals`.

    Returns:
        `value`, `low`, `high`; `if_perfect` and `if_perfect_high`, the mean and the upper `level`
        quantile of the error if labels were drawn from these probabilities.
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
    """Return a remark on a fitted temperature that is missing or at a bound, else None."""
    if temperature is None:
        return "no temperature: the validation labels are of one class"
    if min(temperature / TEMPERATURES[0], TEMPERATURES[1] / temperature) < 1.01:
        return f"temperature {temperature:.3g} is as far as the fit goes: no likeliest one exists"
    return None


def _bins(probability: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.minimum((probability * BINS).astype(np.int64), BINS - 1)
