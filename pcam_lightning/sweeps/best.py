"""Selection of the best configuration of a sweep; constant predictors cannot win."""

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import ndtr

from pcam_lightning.metrics.metrics import METRICS
from pcam_lightning.sweeps.table import Configuration, deviation

SELECTION_SPLIT = "val"
"""Selecting on test scores would make the reported score too optimistic."""
DIGITS = 12
"""Decimals of scores that are compared."""


def best_configuration(
    configurations: Sequence[Configuration], metric: str
) -> tuple[Configuration | None, str]:
    """Return the configuration with the best mean of a validation metric, and the reason.

    A configuration is eligible if all its jobs are finished with a score, it has as many seeds as
    any other finished one, and the mean score is better than every constant predictor's. Ties go to
    the lower validation log loss, then to the first configuration. Without an eligible
    configuration the result is None and the reason.
    """
    finished = [each for each in configurations if has_scores(each, metric)]
    if not finished:
        return None, f"no configuration has finished all its runs with a validation {metric}"
    datasets = {result.dataset or "unknown" for each in finished for result in each.results}
    if len(datasets) > 1:
        names = ", ".join(sorted(datasets))
        return None, f"scores on different data sets cannot be compared: {names}"
    seeds = max(each.seeds for each in finished)
    repeated = [each for each in finished if each.seeds == seeds]
    eligible = [each for each in repeated if not constants_win(each, metric)]
    if not eligible:
        return None, f"no configuration beats the constant predictors at validation {metric}"
    best = min(eligible, key=lambda each: _rank(each, metric))
    count = f"{len(eligible)} of {len(configurations)} configurations"
    reason = f"best mean validation {metric}; {count} are finished and beat the constant predictors"
    if fewer := len(finished) - len(repeated):
        reason += f"; {fewer} with fewer than {seeds} seeds cannot win"
    return best, reason


def expected_optimism(
    configurations: Sequence[Configuration], best: Configuration, metric: str
) -> float | None:
    """Return by how much the best mean is too high on average if all configurations are equal.

    The best of K equally good means exceeds their common expectation by the expected maximum of K
    standard normal numbers, times the standard error of a mean. The standard deviation between
    seeds is pooled over the configurations that the best one was selected from.

    Returns:
        None if each configuration has a single seed, which shows no deviation.
    """
    if best.seeds < 2:
        return None
    finished = [each for each in configurations if has_scores(each, metric)]
    rivals = [each for each in finished if each.seeds == best.seeds]
    spread = [deviation(each.scores(SELECTION_SPLIT, metric)) for each in rivals]
    error = math.sqrt(sum(each**2 for each in spread) / len(spread) / best.seeds)
    x = np.linspace(-8, 8, 4001)
    # E[max] = integral of x K Phi(x)^(K - 1) phi(x) dx
    density = len(rivals) * ndtr(x) ** (len(rivals) - 1) * np.exp(-x * x / 2) / math.sqrt(math.tau)
    return error * float(np.sum(x * density) * (x[1] - x[0]))


def has_scores(configuration: Configuration, metric: str) -> bool:
    """Return whether every job is finished with a score and the constant predictors' scores."""
    scored = all(
        math.isfinite(result.score(SELECTION_SPLIT, metric)) for result in configuration.results
    )
    return configuration.is_finished and scored and bool(configuration.constants(SELECTION_SPLIT))


def constants_win(configuration: Configuration, metric: str) -> bool:
    """Return whether a constant predictor's mean is at least as good, at any metric."""
    value = configuration.mean(SELECTION_SPLIT, metric)
    constants = [scores[metric] for scores in configuration.constants(SELECTION_SPLIT).values()]
    higher = METRICS[metric] == "higher"
    return any(constant >= value if higher else constant <= value for constant in constants)


def _rank(configuration: Configuration, metric: str) -> tuple[float, float]:
    # Rounded: means of the same scores in another order differ in the last digits.
    value, loss = (
        round(configuration.mean(SELECTION_SPLIT, name), DIGITS) for name in (metric, "log_loss")
    )
    sign = -1 if METRICS[metric] == "higher" else 1
    return sign * value, math.inf if math.isnan(loss) else loss
