"""Metrics of a binary classifier, with optional row weights.

scikit-learn has all of them, and the values agree wherever scikit-learn defines one. This version
is for the bootstrap, which needs them a thousand times on one table: sorting once and summing many
times takes about a second instead of minutes.

`is_tumour` decides the predicted class. With TP, FP, FN, TN the weighted counts:

    auroc              area under the ROC curve, trapezoidal over distinct probabilities
                       (Hanley & McNeil 1982: P(a tumour outranks a normal), ties count half)
    average_precision  sum over distinct probabilities of (recall step) * precision
    accuracy           (TP + TN) / all
    balanced_accuracy  (sensitivity + specificity) / 2
    f1, f2             (1 + b^2) TP / ((1 + b^2) TP + b^2 FN + FP) (van Rijsbergen 1979)
    sensitivity        TP / (TP + FN), also called recall
    specificity        TN / (TN + FP)
    precision          TP / (TP + FP), the positive predictive value
    brier              mean of (probability - label)^2 (Brier 1950)
    log_loss           mean of -ln(probability given to the true class), in nats; probabilities are
                       clipped to [2.2e-16, 1 - 2.2e-16], so one patch costs 36 at most

A metric with denominator 0 is NaN: an undefined number is not a bad score. f1 and f2 are also NaN
without tumours, where the formula and scikit-learn give 0 after a single false alarm.
"""

from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Direction = Literal["higher", "lower"]

# Name of each metric and its better direction.
METRICS: dict[str, Direction] = {
    "auroc": "higher",
    "average_precision": "higher",
    "accuracy": "higher",
    "balanced_accuracy": "higher",
    "f1": "higher",
    "f2": "higher",
    "sensitivity": "higher",
    "specificity": "higher",
    "precision": "higher",
    "brier": "lower",
    "log_loss": "lower",
}


def is_tumour(probability: Any, threshold: Any) -> Any:
    """Return a mask of the patches predicted as tumour: probability at or above the threshold.

    No other code makes this decision. A probability equal to the threshold counts as tumour.

    Args:
        probability: [N], a NumPy array or a tensor.
        threshold: a number, or an array or tensor that broadcasts against `probability`.

    Returns:
        bool [N], an array or a tensor as `probability` is.
    """
    return probability >= threshold


def compute_metrics(
    label: ArrayLike,
    probability: ArrayLike,
    threshold: float = 0.5,
    weight: ArrayLike | None = None,
) -> dict[str, float]:
    """Return all `METRICS` of one table.

    Args:
        label: [N] of 0 (normal) or 1 (tumour), N >= 1.
        probability: [N] of tumour, in [0, 1].
        threshold: of `is_tumour`; may be infinite.
        weight: [N] row weights >= 0 with a positive sum, such as bootstrap counts; None is all 1.

    Returns:
        Metric name to value, in the order of `METRICS`; NaN where undefined.

    Raises:
        ValueError: shapes, labels, probabilities, threshold or weights are not as above.
    """
    ranking = Ranking(label, probability, threshold)
    if weight is None:
        return ranking.metrics()
    weight = np.asarray(weight, dtype=np.float64)
    if weight.shape != np.shape(label) or not (weight >= 0).all() or not 0 < weight.sum() < np.inf:
        raise ValueError("weight must be one number >= 0 for each label, with a positive sum")
    return ranking.metrics(weight)


class Ranking:
    """Table sorted once by probability, for fast metrics under many row weights.

    Arguments and errors are those of `compute_metrics`.
    """

    def __init__(self, label: ArrayLike, probability: ArrayLike, threshold: float = 0.5) -> None:
        y = np.asarray(label)
        p = np.asarray(probability, dtype=np.float64)
        if y.ndim != 1 or y.shape != p.shape or y.size == 0:
            raise ValueError(
                f"label and probability must be flat, not empty and of one length, "
                f"but have shapes {y.shape} and {p.shape}"
            )
        if not ((y == 0) | (y == 1)).all():
            raise ValueError("label must be 0 (normal) or 1 (tumour) everywhere")
        if not ((p >= 0) & (p <= 1)).all():
            raise ValueError("probability must lie in [0, 1] everywhere")
        if np.isnan(threshold):
            raise ValueError("threshold must be a number, not NaN")

        self._order = np.argsort(-p, kind="stable")
        p = p[self._order]
        self._label = y[self._order].astype(np.float64)
        # The curves have one point per group of equal probabilities.
        self._group_end = np.flatnonzero(np.append(p[1:] != p[:-1], True))
        self.probabilities = p[self._group_end]
        """float64 [G]: distinct probabilities in descending order."""
        self._groups_predicted = int(np.sum(is_tumour(self.probabilities, threshold)))
        self._squared_error, self._log_loss = row_costs(self._label, p).T

    def counts(
        self, weight: NDArray[np.number] | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return weighted true and false positives for descending thresholds.

        Args:
            weight: [N] in the order of the labels given; None is all 1.

        Returns:
            Two float64 arrays [G + 1], G the number of distinct probabilities: element 0 is 0
            (nothing predicted tumour), element G everything.
        """
        return self._counts(self._ranked(weight))

    def metrics(self, weight: NDArray[np.number] | None = None) -> dict[str, float]:
        """Return all `METRICS` under row weights [N], in the order of the given labels."""
        w = self._ranked(weight)
        true_positives, false_positives = self._counts(w)
        tumours, normals = float(true_positives[-1]), float(false_positives[-1])
        rows = tumours + normals
        tp = float(true_positives[self._groups_predicted])
        fp = float(false_positives[self._groups_predicted])
        fn, tn = tumours - tp, normals - fp

        new_true = true_positives[1:] - true_positives[:-1]
        new_false = false_positives[1:] - false_positives[:-1]
        # Not `@`: on a busy machine, BLAS threads wait for each other longer than these sums take.
        area = np.sum(new_false * (true_positives[1:] + true_positives[:-1])) / 2
        # A leading group of weight 0 has precision 0 / 0; its recall step is 0, so any value works.
        precisions = true_positives[1:] / np.maximum(
            true_positives[1:] + false_positives[1:], np.finfo(np.float64).tiny
        )
        sensitivity, specificity = _ratio(tp, tumours), _ratio(tn, normals)
        f1, f2 = _ratio(2 * tp, 2 * tp + fn + fp), _ratio(5 * tp, 5 * tp + 4 * fn + fp)
        return {
            "auroc": _ratio(area, tumours * normals),
            "average_precision": _ratio(np.sum(new_true * precisions), tumours),
            "accuracy": _ratio(tp + tn, rows),
            "balanced_accuracy": (sensitivity + specificity) / 2,
            "f1": f1 if tumours > 0 else float("nan"),
            "f2": f2 if tumours > 0 else float("nan"),
            "sensitivity": sensitivity,
            "specificity": specificity,
            "precision": _ratio(tp, tp + fp),
            "brier": _ratio(np.sum(w * self._squared_error), rows),
            "log_loss": _ratio(np.sum(w * self._log_loss), rows),
        }

    def _ranked(self, weight: NDArray[np.number] | None) -> NDArray[np.float64]:
        if weight is None:
            return np.ones_like(self._label)
        return weight[self._order].astype(np.float64)

    def _counts(self, w: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        tumour = w * self._label
        true_positives = np.zeros(len(self._group_end) + 1)
        false_positives = np.zeros(len(self._group_end) + 1)
        true_positives[1:] = np.cumsum(tumour)[self._group_end]
        false_positives[1:] = np.cumsum(w - tumour)[self._group_end]
        return true_positives, false_positives


def row_costs(label: ArrayLike, probability: ArrayLike) -> NDArray[np.float64]:
    """Return each row's term of brier and log_loss, whose means they are: float64 [N, 2]."""
    y, p = np.asarray(label), np.asarray(probability, dtype=np.float64)
    given = np.where(y == 1, p, 1 - p)
    log_loss = -np.log(np.clip(given, np.finfo(np.float64).eps, None))
    return np.stack([(p - y) ** 2, log_loss], axis=1)


def _ratio(numerator: float, denominator: float) -> float:
    return float(numerator / denominator) if denominator > 0 else float("nan")
