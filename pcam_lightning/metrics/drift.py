"""Drift: do new patches look like the patches that a model was trained on?

Five features of the raw bytes (see `data.patch_features`) are compared with their distribution in
training by the largest difference of the two distribution functions (Kolmogorov-Smirnov).
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

QUANTILES = 501
"""Equally spaced quantiles that stand for a distribution: its function is known to 0.2 %."""
TOLERANCE = 0.2
"""Distance that patients and slides make. Official validation and test patches are at most 0.15
from training patches; 15 % more light makes 0.22, a blur of one pixel 0.98."""
CRITICAL = 1.63
"""Kolmogorov's critical value at 1 %, over the square root of the number of patches."""
FEWEST = 30
"""Patches below which nothing is reported: they may all be of one slide."""

CAUSES: Mapping[str, str] = {
    "brightness": "another exposure or scanner",
    "blank": "another amount of tissue, or no tissue",
    "hue": "another stain or color profile",
    "saturation": "another stain or color profile",
    "sharpness": "another magnification, focus or compression",
}
"""The likeliest cause of a feature's drift."""


def reference(features: Mapping[str, ArrayLike]) -> dict[str, Any]:
    """Return the distribution of training features as plain JSON: `patches` and `quantiles`.

    Args:
        features: name to one finite number for each patch, [N].
    """
    columns = {name: np.asarray(values, np.float64) for name, values in features.items()}
    grid = np.linspace(0, 1, QUANTILES)
    return {
        "patches": len(next(iter(columns.values()))),
        "quantiles": {name: np.quantile(each, grid).tolist() for name, each in columns.items()},
    }


def compare_features(
    known: Mapping[str, Any], features: Mapping[str, NDArray[np.floating]]
) -> dict[str, dict[str, Any]]:
    """Return for each feature how far it is from training.

    Args:
        known: as from `reference`.
        features: name to one number for each new patch, [N].

    Returns:
        Name to `distance` (0 equal, 1 disjoint), `limit`, `drifted`, `median` and
        `training_median`; empty for fewer than `FEWEST` patches.
    """
    from scipy.stats import ks_2samp  # takes half a second, which every training would pay

    count = len(next(iter(features.values())))
    if count < FEWEST:
        return {}
    limit = TOLERANCE + CRITICAL / math.sqrt(count)
    found = {}
    for name, quantiles in known["quantiles"].items():
        distance = float(ks_2samp(quantiles, features[name], method="asymp").statistic)  # type: ignore[union-attr]
        found[name] = {
            "distance": distance,
            "limit": limit,
            "drifted": distance > limit,
            "median": float(np.median(features[name])),
            "training_median": float(np.median(quantiles)),
        }
    return found
