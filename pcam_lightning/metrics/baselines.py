"""What a predictor that never looks at a patch would score.

F2 is the warning example: at balanced classes, calling every patch tumour scores 0.833.
"""

import numpy as np
from numpy.typing import ArrayLike

from pcam_lightning.metrics.bootstrap import draws, percentile_interval
from pcam_lightning.metrics.metrics import METRICS, Ranking, compute_metrics

# One constant scores 1 at either of these and 0 at the other whatever the data, so that a constant
# wins one of them says nothing about the model; `balanced_accuracy` compares the two together.
ONE_SIDED = frozenset({"sensitivity", "specificity"})


def constant_baselines(
    label: ArrayLike, train_prevalence: float, threshold: float = 0.5
) -> dict[str, dict[str, float]]:
    """Metrics of three constant predictors on the given labels.

    `majority` predicts the commoner class of the training labels (normal if they are equally
    common, as in scikit-learn's DummyClassifier); `all_tumour` predicts tumour; `prevalence` is
    put through the model's own threshold: it predicts tumour everywhere if the training prevalence
    reaches it, and nowhere otherwise. That is what a model that learned nothing but how common
    tumour is would do in the model's place.

    All give every patch the same probability, the training prevalence: ranking metrics see one
    great tie (auroc 0.5, average_precision the prevalence of `label`), and brier and log_loss see
    the best constant that can be known without looking at `label`. Probability 0 or 1 would make
    those two far worse than any constant has to be, and every model would seem to beat them. Only
    the decision differs between the predictors.

    Args:
        label: [N] of 0 or 1, the labels to score on.
        train_prevalence: share of tumour among the training labels, in [0, 1].
        threshold: of the model, as in `compute_metrics`.

    Raises:
        ValueError: labels or prevalence are not as above.
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
    """Names of the metrics at which some constant predictor ties with the model or wins.

    Metrics in `ONE_SIDED`, and comparisons in which either side is NaN, are left out.

    Args:
        metrics: the model's, as from `compute_metrics`.
        baselines: name to metrics, as from `constant_baselines`.
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
    """Names of the metrics at which the model beats some constant no more than chance allows.

    The model and the constant are scored on the same resamples, since what is hard for one may be
    for the other: both have more F2 where there are more tumours. Those that `beaten_by_constant`
    names are among them; metrics in `ONE_SIDED` are left out, and so is what is undefined.

    Args: as in `bootstrap_intervals` and `constant_baselines`.
    """
    constant = np.full(np.shape(label), train_prevalence, dtype=np.float64)
    model = Ranking(label, probability, threshold)
    constants = [Ranking(label, constant, decision) for decision in (-np.inf, np.inf)]
    gains = []  # [resamples, constants, metrics]
    for weight in draws(np.size(label), slide, resamples, seed):
        scores = np.array(list(model.metrics(weight).values()))
        others = [list(each.metrics(weight).values()) for each in constants]
        gains.append(scores - np.array(others))
    found = []
    for i, (name, better) in enumerate(METRICS.items()):
        towards = np.array(gains)[:, :, i] * (1 if better == "higher" else -1)
        low = [percentile_interval(each, level)[0] for each in towards.T]
        if name not in ONE_SIDED and any(edge <= 0 for edge in low):
            found.append(name)
    return found
