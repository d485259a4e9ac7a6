"""Which setting is best, by a rule that a constant predictor cannot win."""

import math
from collections.abc import Sequence

from pcam_lightning.collect.table import Configuration
from pcam_lightning.metrics.metrics import METRICS

CHOOSING = "val"
"""The split that decides. Test scores are only reported: whoever chooses by them overrates."""


def best_configuration(
    settings: Sequence[Configuration], metric: str
) -> tuple[Configuration | None, str]:
    """The setting with the best mean of a validation metric, and in one line why it, or why none.

    A setting is eligible when all its jobs are finished with a score, and that score's mean is
    better than every constant predictor's. Ties go to the lower log loss on validation, then to
    the first.
    """
    finished = [each for each in settings if has_scores(each, metric)]
    if not finished:
        return None, f"no setting has finished all its runs with a validation {metric}"
    datasets = {result.dataset or "unknown" for each in finished for result in each.results}
    if len(datasets) > 1:
        names = ", ".join(sorted(datasets))
        return None, f"scores on different data sets cannot be compared: {names}"
    eligible = [each for each in finished if not constants_win(each, metric)]
    if not eligible:
        return None, f"at validation {metric} a constant predictor does as well as every setting"
    best = min(eligible, key=lambda each: _rank(each, metric))
    return best, f"best mean validation {metric} of {_count(len(eligible))} that beat constants"


def has_scores(setting: Configuration, metric: str) -> bool:
    """Whether every job of a setting is finished with a score and constants beside it."""
    scores = setting.scores(CHOOSING, metric)
    scored = len(scores) == len(setting.results) and bool(setting.constants(CHOOSING))
    return setting.is_finished and scored


def constants_win(setting: Configuration, metric: str) -> bool:
    """Whether some constant does as well in the mean, be it at a metric where it has to."""
    value = setting.mean(CHOOSING, metric)
    constants = [scores[metric] for scores in setting.constants(CHOOSING).values()]
    higher = METRICS[metric] == "higher"
    return any(constant >= value if higher else constant <= value for constant in constants)


def _rank(setting: Configuration, metric: str) -> tuple[float, float]:
    value, loss = setting.mean(CHOOSING, metric), setting.mean(CHOOSING, "log_loss")
    sign = -1 if METRICS[metric] == "higher" else 1
    return sign * value, math.inf if math.isnan(loss) else loss


def _count(number: int) -> str:
    return "1 setting" if number == 1 else f"{number} settings"
