"""Predictions of a network for a split, and the metrics that validation and test log."""

from typing import NamedTuple, Self

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from pcam_lightning.metrics.metrics import compute_metrics
from pcam_lightning.metrics.predictions import sigmoid

SPLIT_METRICS = ("auroc", "average_precision", "accuracy", "f2")
"""Metrics of `metrics.metrics` that validation and test log besides the loss."""

VAL_METRICS = tuple(f"val/{name}" for name in ("loss", *SPLIT_METRICS))
"""Names of the logged validation metrics."""


class Predictions(NamedTuple):
    """Output of a network for the N rows of a split: sorted by row, each row once, on the CPU."""

    row: Tensor
    """int64 [N]."""
    label: Tensor
    """int64 [N], 0 or 1."""
    logit: Tensor
    """float32 [N]."""

    @classmethod
    def sort(cls, row: Tensor, label: Tensor, logit: Tensor) -> Self:
        """Return predictions from rows in any order, of which padding on ranks may repeat some."""
        order = torch.argsort(row, stable=True)
        first = torch.ones(len(row), dtype=torch.bool)
        first[1:] = row[order][1:] != row[order][:-1]
        keep = order[first]
        return cls(row[keep], label[keep], logit[keep])


def split_metrics(predictions: Predictions) -> dict[str, Tensor]:
    """Return loss, AUROC, average precision, accuracy and F2 of a split, at threshold 0.5.

    Each is a float32 scalar, NaN where it is undefined (see `metrics.metrics`). All are NaN if any
    logit is not finite.
    """
    _, label, logit = predictions
    if not logit.isfinite().all():
        return dict.fromkeys(("loss", *SPLIT_METRICS), torch.tensor(torch.nan))
    scores = compute_metrics(label.numpy(), sigmoid(logit.numpy()))
    loss = binary_cross_entropy_with_logits(logit, label.float())
    return {"loss": loss} | {name: torch.tensor(scores[name]) for name in SPLIT_METRICS}
