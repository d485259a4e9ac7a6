"""Rules that choose the decision threshold on validation.

max_fbeta     the highest F-beta: (1 + b^2) TP / ((1 + b^2) TP + b^2 FN + FP)
recall>=0.95  the highest threshold whose sensitivity reaches the target, hence with the highest
              specificity; any target in (0, 1]
youden        the highest sensitivity + specificity - 1 (Youden 1950)
cost          the lowest ratio * FN + FP on the labels, where a missed tumour costs `ratio` false
              alarms; 1 / (1 + ratio) for a perfectly calibrated model (Elkan 2001)
a number      used unchanged

Of several equally good thresholds, the lowest is chosen: it misses the fewest tumours.
"""

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pcam_lightning.errors import InputError
from pcam_lightning.metrics.metrics import Ranking

RULES = "max_fbeta, recall>=TARGET such as recall>=0.95, youden, cost, or a probability"

NOTHING = float(np.nextafter(1, 2))
"""Threshold above every probability."""


@dataclass(frozen=True)
class Rule:
    """Rule that chooses a threshold."""

    kind: Literal["max_fbeta", "recall", "youden", "cost", "fixed"]
    target: float = float("nan")
    """Target sensitivity for `recall`, the threshold itself for `fixed`."""


def parse_rule(text: str | float) -> Rule:
    """Parse the rule in a config's value.

    Raises:
        InputError: the value is no rule of this module.
    """
    if text in ("max_fbeta", "youden", "cost"):
        return Rule(text)  # type: ignore[arg-type]
    if match := re.fullmatch(r"(recall\s*>=\s*)?(\d*\.?\d+(?:[eE]-\d+)?)", str(text)):
        rule = Rule("recall" if match[1] else "fixed", float(match[2]))
        if 0 <= rule.target <= 1 and (rule.kind == "fixed" or rule.target > 0):
            return rule
    raise InputError(f"threshold {text!r}: expected one of {RULES}")


def choose_threshold(
    label: ArrayLike,
    probability: ArrayLike,
    rule: Rule,
    beta: float = 2.0,
    cost_ratio: float = 10.0,
) -> float:
    """Return the threshold that a rule chooses on these labels.

    It is the midpoint of two predicted probabilities, 0 (all tumour) or `NOTHING` (none). Rounding
    on another machine could move a patch across a threshold equal to its probability.

    Args:
        label, probability: as in `compute_metrics`.
        rule: as from `parse_rule`.
        beta: beta of `max_fbeta`, > 0.
        cost_ratio: number of false alarms that a missed tumour costs for `cost`, > 0.

    Raises:
        InputError: one of the classes is absent.
        ValueError: as in `compute_metrics`.
    """
    if rule.kind == "fixed":
        return rule.target
    ranking = Ranking(label, probability)
    tp, fp = ranking.counts()
    tumours, normals = tp[-1], fp[-1]
    if not tumours or not normals:
        absent = "tumour" if not tumours else "normal patch"
        raise InputError(
            f"no {absent} among the {np.size(label):,} patches that the threshold is to be chosen "
            "on; expected both classes, or a number, such as evaluate.threshold=0.5"
        )
    if rule.kind == "recall":
        # A whole number of tumours despite rounding of the product.
        needed = np.ceil(rule.target * tumours - 1e-9)
        return _between(ranking.probabilities, int(np.argmax(tp >= needed)))
    if rule.kind == "max_fbeta":
        score = f_beta(tp, fp, beta)
    elif rule.kind == "youden":
        score = tp / tumours - fp / normals
    else:
        score = -(cost_ratio * (tumours - tp) + fp)
    best = np.flatnonzero(score >= score.max() - 1e-12 * abs(score.max()))[-1]
    return _between(ranking.probabilities, int(best))


def f_beta(tp: NDArray[np.float64], fp: NDArray[np.float64], beta: float) -> NDArray[np.float64]:
    """Return F-beta for the counts of `Ranking.counts`, [G + 1]; needs at least one tumour."""
    square = beta * beta
    return (1 + square) * tp / (tp + fp + square * tp[-1])


def _between(probabilities: NDArray[np.float64], groups: int) -> float:
    """Return a threshold that the first `groups` of the descending probabilities reach."""
    if groups == 0:
        return NOTHING
    if groups == len(probabilities):
        return 0.0
    above, below = probabilities[groups - 1 : groups + 1]
    middle = (above + below) / 2
    return float(middle if middle > below else above)  # neighbors have nothing between them
