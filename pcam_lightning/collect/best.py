"""Selection of the best configuration of a sweep; constant predictors cannot win."""

import math
from collections.abc import Sequence

from pcam_lightning.collect.table import Configuration
from pcam_lightning.metrics.metrics import METRICS

SELECTION_SPLIT = "val"
"""Selecting on test scores would make the reported score too optimistic."""


def best_configuration(
    configurations: Sequence[Configuration], metric: str
) -> tuple[Configuration | None, str]:
    """Return the configuration with the best mean of a validation metric, and the reason.

    A configuration is eligible if all its jobs are finished with a score, and the mean score is
    better than every constant predictor's. Ties go to the lower validation log loss, then to the
    first configuration. Without an eligible configuration the result is None and the reason.
    """
    finished = [each for each in configurations if has_scores(each, metric)]
    if not finished:
        return None, f"no configuration has finished all its runs with a validation {metric}"
    datasets = {result.dataset or "unknown" for each in finished for result in each.results}
    if len(datasets) > 1:
        names = ", ".join(sorted(datasets))
        return None, f"scores on different data sets cannot be compared: {names}"
    eligible = [each for each in finished if not constants_win(each, metric)]
    if not eligible:
        return None, f"no configuration beats the constant predictors at validation {metric}"
    best = min(eligible, key=lambda each: _rank(each, metric))
    count = f"{len(eligible)} of {len(configurations)} configurations"
    reason = f"best mean validation {metric}; {count} are finished and beat the constant predictors"
    return best, reason


def has_scores(configuration: Configuration, metric: str) -> bool:
    """Return whether every job is finished with a score and the constant predictors' scores."""
    scores = configuration.scores(SELECTION_SPLIT, metric)
    scored = len(scores) == len(configuration.results)
    return configuration.is_finished and scored and bool(configuration.constants(SELECTION_SPLIT))


def constants_win(configuration: Configuration, metric: str) -> bool:
    """Return whether a constant predictor's mean is at least as good, at any metric."""
    value = configuration.mean(SELECTION_SPLIT, metric)
    constants = [scores[metric] for scores in configuration.constants(SELECTION_SPLIT).values()]
    higher = METRICS[metric] == "higher"
    return any(constant >= value if higher else constant <= value for constant in constants)


def _rank(configuration: Configuration, metric: str) -> tuple[float, float]:
    value = configuration.mean(SELECTION_SPLIT, metric)
    loss = configuration.mean(SELECTION_SPLIT, "log_loss")
    sign = -1 if METRICS[metric] == "higher" else 1
    return sign * value, math.inf if math.isnan(loss) else loss
