"""The mean of saved predictions: an ensemble of networks."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from pcam_lightning.errors import InputError
from pcam_lightning.evaluate.analysis import PLAIN_LOGIT
from pcam_lightning.metrics.predictions import read_predictions, sigmoid


def mean_predictions(paths: Sequence[Path]) -> pd.DataFrame:
    """Return the predictions table of a split with the mean logit of several tables.

    `logit_without_tta`, if present, is a mean too; further columns are those of the first table.

    Args:
        paths: files of predictions, at least one.

    Raises:
        InputError: a file is invalid, has other rows or labels than the first, or is with the mean
            over eight orientations where the first is without.
    """
    first, *others = (read_predictions(path) for path in paths)
    if not others:
        return first
    logits = [name for name in ("logit", PLAIN_LOGIT) if name in first]
    for path, table in zip(paths[1:], others, strict=True):
        for name in ("row", "label"):
            if not np.array_equal(table[name], first[name]):
                raise InputError(f"{path}: column {name} differs from that of {paths[0]}")
        if (PLAIN_LOGIT in table) != (PLAIN_LOGIT in first):
            raise InputError(
                f"{path}: expected evaluate.tta as in {paths[0]}, where column {PLAIN_LOGIT} is "
                f"{'present' if PLAIN_LOGIT in first else 'absent'}"
            )
    means = {
        name: np.mean([table[name].to_numpy(np.float64) for table in (first, *others)], axis=0)
        for name in logits
    }
    return first.assign(**means, probability=sigmoid(means["logit"]))
