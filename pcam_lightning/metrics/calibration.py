"""Calibration: expected calibration error, reliability bins, temperature scaling.

Expected calibration error: mean gap between predicted probability and share of tumours in 15
equally wide bins, weighted by the number of patches (Naeini et al. 2015; 15 bins: Guo et al. 2017).
Even a perfectly calibrated model scores above 0 on finitely many patches, so the error is reported
with the value that such a model would have.

Temperature scaling divides every logit by one number, fitted on validation by maximum likelihood
(Guo et al. 2017). It changes no ranking.

A network that trained on balanced classes assumes that half of all patches are tumour. Where the
share is another one, `prior_offset` is added to its logits first (Elkan 2001); no temperature can
do that.
"""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar

from pcam_lightning.metrics.intervals import wilson
from pcam_lightning.metrics.predictions import sigmoid
from pcam_lightning.metrics.resampling import Resampling

BINS = 15
TEMPERATURES = 0.01, 100.0
"""Bounds of the fit."""


def prior_offset(prevalence: float, trained_on: float) -> float:
    """Return the number to add to logits for another share of tumour: a difference of log-odds.

    Args:
        prevalence: share of tumour where the model is used, in [0, 1].
        trained_on: share of tumour among the patches that the model was trained with, in [0, 1].

    Returns:
        0.0 if a share is 0 or 1, which has no log-odds.
    """
    if not (0 < prevalence < 1 and 0 < trained_on < 1):
        return 0.0
    odds = [share / (1 - share) for share in (prevalence, trained_on)]
    return float(np.log(odds[0]) - np.log(odds[1]))


def fit_temperature(
    label: ArrayLike, logit: ArrayLike, offset: float = 0.0
) -> tuple[float | None, str | None]:
    """Return the temperature in `TEMPERATURES` with the highest likelihood of the labels.

    Args:
        label: [N] of 0 or 1, from validation.
        logit: [N], finite.
        offset: added to the logits, as from `prior_offset`.

    Returns:
        The temperature, and a remark on it or None. The temperature is None if all labels are of
        one class, or if a threshold separates the classes without an error: the lower a
        temperature is, the likelier are the labels then.
    """
    y, z = np.asarray(label), np.asarray(logit, dtype=np.float64) + offset
    if y.min() == y.max():
        return None, "no temperature: the validation labels are of one class"
    if z[y == 1].min() > z[y == 0].max():
        return None, (
            "no temperature: the logits separate the validation classes without an error, "
            "so none is the likeliest"
        )
    margin = np.where(y == 1, -z, z)

    def loss(log_temperature: float) -> float:
        return float(np.mean(np.logaddexp(0.0, margin * np.exp(-log_temperature))))

    low, high = np.log(TEMPERATURES)
    fit: Any = minimize_scalar(loss, bounds=(low, high), method="bounded")
    temperature = float(np.exp(fit.x))
    if min(temperature / TEMPERATURES[0], TEMPERATURES[1] / temperature) < 1.01:
        remark = f"temperature {temperature:.3g} is as far as the fit goes: no likeliest one exists"
        return temperature, remark
    return temperature, None


def calibrated(
    logit: ArrayLike, temperature: float | None, offset: float = 0.0
) -> NDArray[np.float64]:
    """Return sigmoid((logit + offset) / temperature), float64 [N]; None divides by 1."""
    return sigmoid((np.asarray(logit, dtype=np.float64) + offset) / (temperature or 1.0))


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
    intervals = np.array([wilson(k * size, size) for k, size in zip(share, n, strict=True)])
    return pd.DataFrame(
        {
            "bin": some,
            "rows": n,
            "probability": np.bincount(place, p, BINS)[some] / n,
            "tumours": share,
            "low": intervals[:, 0],
            "high": intervals[:, 1],
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
    intervals lie too high. The interval is the error plus and minus a number of standard errors
    (see `Resampling`); its lower end is reduced further by twice the bias that resampling finds. It
    starts at 0 if a perfectly calibrated model often has such an error. In simulations it covers
    the true error in 95 to 99 % of samples at a level of 95 %.

    Args: as in `metric_intervals`.

    Returns:
        `value`, `low`, `high`; `if_perfect` and `if_perfect_high`, the mean and the upper `level`
        quantile of the error if labels were drawn from these probabilities.
    """
    y, p = np.asarray(label, dtype=np.float64), np.asarray(probability, dtype=np.float64)
    place, gap, value = _bins(p), p - y, calibration_error(label, probability)
    resampling = Resampling(label, slide, resamples, seed)
    drawn = np.array(
        [
            np.abs(np.bincount(place, weight * gap, BINS)).sum() / max(1, weight.sum())
            for weight in resampling
        ]
    )
    reach = resampling.quantile(level) * resampling.deviation(drawn)
    low = value - 2 * max(0.0, resampling.bias(value, drawn)) - reach
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
    ends = (0.0 if value <= upper else max(0.0, low)), min(1.0, value + reach)
    if not resampling.has_intervals:
        ends = float("nan"), float("nan")
    return {
        "value": value,
        "low": ends[0],
        "high": ends[1],
        "if_perfect": float(perfect.mean()),
        "if_perfect_high": upper,
    }


def _bins(probability: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.minimum((probability * BINS).astype(np.int64), BINS - 1)
