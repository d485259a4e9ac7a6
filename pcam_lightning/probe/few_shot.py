"""Few-shot curves: scores of logistic regression on few labeled patches of each class."""

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pcam_lightning.probe.logistic import fit_each
from pcam_lightning.seeds import derive_seed

log = logging.getLogger(__name__)

LEVEL = 0.95


class Shots(NamedTuple):
    """Test AUROC after a fit on `patches` labeled patches of each class."""

    patches: int
    draws: int
    mean: float
    """Mean over the draws."""
    low: float
    """2.5 % quantile of the draws."""
    high: float
    """97.5 % quantile of the draws."""


def draw_rows(
    labels: NDArray[np.int64], patches: int, draws: int, seed: int
) -> list[NDArray[np.int64]]:
    """Return the positions of `patches` rows of each class, for each draw.

    A draw with more patches contains the draw with fewer.

    Args:
        labels: 0 or 1, [N], with at least `patches` of each class.
        patches: rows of each class.
        draws: number of independent draws.
        seed: seed of the run.
    """
    found = []
    for draw in range(draws):
        random = np.random.default_rng(derive_seed(seed, "few-shot", draw))
        classes = [random.permutation(np.flatnonzero(labels == label)) for label in (0, 1)]
        found.append(np.concatenate([order[:patches] for order in classes]))
    return found


def few_shot_curve(
    train: Tensor,
    labels: NDArray[np.int64],
    test: Tensor,
    auroc: Callable[[NDArray[np.float32]], float],
    sizes: Sequence[int],
    draws: int,
    penalty: float,
    seed: int,
) -> list[Shots]:
    """Return the scores for each number of patches per class, the smallest first.

    The features are standardized by all training patches, whose labels are not used for it. A
    number of patches that the training set lacks is left out, and logged.

    Args:
        train: standardized features, float32 [N, F].
        labels: 0 or 1, [N].
        test: standardized features, float32 [M, F].
        auroc: area under the ROC curve of logits [M] on the test patches.
        sizes: numbers of patches of each class.
        draws: independent draws of patches.
        penalty: of the logistic regression (see `logistic.fit`), the same for all sizes.
        seed: seed of the run.
    """
    available = int(np.bincount(labels, minlength=2).min())
    if lacking := [size for size in sorted(sizes) if size > available]:
        log.warning(
            "few-shot with %s patches per class left out: the training set has %d of one class",
            ", ".join(map(str, lacking)), available,
        )  # fmt: skip
    curve = []
    for size in sorted(set(sizes) - set(lacking)):
        rows = np.stack(draw_rows(labels, size, draws, seed))
        chosen = train[torch.from_numpy(rows).to(train.device)]
        target = torch.from_numpy(labels[rows]).to(train.device)
        model = fit_each(chosen, target, penalty)
        logits = model.logits(test).T.cpu().numpy()
        scores = np.array([auroc(each) for each in logits])
        low, high = np.quantile(scores, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        curve.append(Shots(size, draws, float(scores.mean()), float(low), float(high)))
    return curve
