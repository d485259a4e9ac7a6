"""Abstention: leave the most uncertain patches undecided, and measure the accuracy on the rest.

The accuracy over the share of decided patches is a risk-coverage curve (El-Yaniv & Wiener 2010).
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pcam_lightning.metrics.predictions import sigmoid

SHARES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5)
"""Shares of undecided patches in reports."""


def certainty(logit: ArrayLike, threshold: float) -> NDArray[np.float64]:
    """Return the distance of each logit from the threshold's logit, [N].

    Args:
        logit: [N].
        threshold: a probability; 0 and 1 are replaced by values just inside.
    """
    inside = min(max(threshold, 1e-12), 1 - 1e-12)
    return np.abs(np.asarray(logit, np.float64) - np.log(inside / (1 - inside)))


def undecided(logit: ArrayLike, threshold: float, share: float) -> NDArray[np.bool_]:
    """Return True for the least certain patches, [N].

    Args:
        logit, threshold: as in `certainty`.
        share: of undecided patches in [0, 1], rounded up to a whole number of patches.
    """
    distance = certainty(logit, threshold)
    result = np.zeros(len(distance), bool)
    result[np.argsort(distance, kind="stable")[: int(np.ceil(share * len(distance)))]] = True
    return result


def accuracy_by_coverage(
    label: ArrayLike, logit: ArrayLike, threshold: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the share of decided patches, ascending to 1, and the accuracy on them, [N] each.

    Args:
        label: [N] of 0 or 1.
        logit: [N].
        threshold: tumour where sigmoid(logit) >= threshold.
    """
    y, z = np.asarray(label), np.asarray(logit, np.float64)
    correct = (sigmoid(z) >= threshold) == (y == 1)
    # The same order as in `undecided`: the most certain patches are decided first.
    order = np.argsort(certainty(z, threshold), kind="stable")[::-1]
    count = np.arange(1, len(y) + 1)
    return count / len(y), np.cumsum(correct[order]) / count


def describe_abstention(
    label: ArrayLike, logit: ArrayLike, threshold: float
) -> list[dict[str, Any]]:
    """Return `undecided` (share), `decided` (patches) and `accuracy` for each of `SHARES`."""
    accuracy = accuracy_by_coverage(label, logit, threshold)[1]
    found = []
    for share in SHARES:
        decided = len(accuracy) - int(np.ceil(share * len(accuracy)))
        value = float(accuracy[decided - 1]) if decided else None
        found.append({"undecided": share, "decided": decided, "accuracy": value})
    return found
