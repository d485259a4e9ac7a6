"""Scores of constant predictors, which ignore the patch.

At balanced classes, the constant "tumour" already reaches an F2 of 0.833.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pcam_lightning.metrics.metrics import METRICS, Ranking, compute_metrics
from pcam_lightning.metrics.resampling import Resampling

# On any data, a constant scores 1 at one of these and 0 at the other, so neither compares models.
# `balanced_accuracy` combines both.
ONE_SIDED = frozenset({"sensitivity", "specificity"})


def constant_baselines(
    label: ArrayLike, train_prevalence: float, threshold: float = 0.5
) -> dict[str, dict[str, float]]:
    """Return the metrics of three constant predictors on the given labels.

    - `majority` predicts the more frequent training class (normal in a tie, like scikit-learn's
      DummyClassifier).
    - `all_tumour` predicts tumour.
    - `prevalence` predicts tumour if the training prevalence reaches the model's threshold: the
      decision of a model that learned only the prevalence.

    All predict the training prevalence as probability; only their decisions differ. Ranking metrics
    see one tie (auroc 0.5, average_precision the prevalence of `label`). For brier and log_loss it
    is the best constant known without `label`; probability 0 or 1 would be easy to beat.

    Args:
        label: [N] of 0 or 1, the labels to score on.
        train_prevalence: share of tumour among the training labels, in [0, 1].
        threshold: the model's threshold, as in `compute_metrics`.

    Raises:
        ValueError: labels or prevalence are invalid.
    """
    probability = np.full(np.shape(label), train_prevalence, dtype=np.float64)
    always, never = -np.inf, np.inf
    return {
        "majority": compute_metrics(
            label, probability, always if train_prevalence > 0.5 else never
        ),
        "all_tumour": compute_metrics(label, probability, always),
        "prevalence": compute_metrics(label, probability, threshold),
    }


def beaten_by_constant(
    metrics: dict[str, float], baselines: dict[str, dict[str, float]]
) -> list[str]:
    """Return the names of metrics at which a constant predictor ties with the model or wins.

    Metrics in `ONE_SIDED` and comparisons with NaN are excluded.

    Args:
        metrics: the model's metrics, as from `compute_metrics`.
        baselines: metrics by predictor, as from `constant_baselines`.
    """

    def ties_or_wins(constant: float, model: float, name: str) -> bool:
        return constant >= model if METRICS[name] == "higher" else constant <= model

    return [
        name
        for name, value in metrics.items()
        if name not in ONE_SIDED
        and any(ties_or_wins(constant[name], value, name) for constant in baselines.values())
    ]


def not_beyond_constant(
    label: ArrayLike,
    probability: ArrayLike,
    threshold: float,
    train_prevalence: float,
    slide: ArrayLike | None = None,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> list[str]:
    """Return the names of metrics at which the model is not significantly better than a constant.

    The interval of their difference over the same resamples decides: both have a higher F2 on
    resamples with more tumours. The result includes the names from `beaten_by_constant`, and with
    fewer than `MIN_SLIDES` slides, which have no intervals, every name. Metrics in `ONE_SIDED` and
    undefined ones are excluded.

    Args: as in `metric_intervals` and `constant_baselines`.
    """
    constant = np.full(np.shape(label), train_prevalence, dtype=np.float64)
    model = Ranking(label, probability, threshold)
    constants = [Ranking(label, constant, decision) for decision in (-np.inf, np.inf)]
    resampling = Resampling(label, slide, resamples, seed)

    def gains(weight: NDArray[np.int64] | None) -> NDArray[np.float64]:
        """Return the model's scores minus the constants': [constants, metrics]."""
        scores = np.array(list(model.metrics(weight).values()))
        return scores - np.array([list(each.metrics(weight).values()) for each in constants])

    value, values = gains(None), np.array([gains(weight) for weight in resampling])
    found = []
    for i, (name, better) in enumerate(METRICS.items()):
        if name in ONE_SIDED:
            continue
        sign = 1 if better == "higher" else -1
        for gain, resampled in zip(sign * value[:, i], sign * values[:, :, i].T, strict=True):
            low, _ = resampling.interval(gain, resampled, level)
            proven = low > 0 or (np.isnan(low) and resampling.has_intervals)
            if not proven and not np.isnan(gain):
                found.append(name)
                break
    return found
