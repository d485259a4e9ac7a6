"""Detection of training that has diverged: a loss, a weight or a logit is not finite."""

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from lightning import Trainer
from torch import Tensor

from pcam_lightning.errors import Diverged


class _Step(NamedTuple):
    number: int
    lr: float
    loss: Tensor
    """float32 scalar, on the device."""


class DivergenceCheck:
    """Losses of recent training steps, kept on their device until the next check.

    With several ranks, `check` is a collective operation: all ranks call it at the same steps, and
    all of them raise or none does.
    """

    def __init__(self) -> None:
        self._steps: list[_Step] = []

    def record(self, trainer: Trainer, loss: Tensor) -> None:
        """Keep the loss of the current training step."""
        lr = float(trainer.optimizers[0].param_groups[0]["lr"])
        self._steps.append(_Step(trainer.global_step, lr, loss.detach()))

    def check(self, trainer: Trainer, weights: Iterable[Tensor] | None = None) -> None:
        """Raise `Diverged` if a loss since the last check, or a weight, is not finite.

        The host waits for the device.
        """
        values = [step.loss for step in self._steps]
        if weights is not None:
            finite = [each.isfinite().all() for each in weights if each.is_floating_point()]
            values.append(torch.where(torch.stack(finite).all(), 0.0, torch.nan))
        if not values:
            return
        found = torch.stack([value.float() for value in values])
        if trainer.world_size > 1:
            # The mean is not finite if the value of any rank is not.
            found = trainer.strategy.all_gather(found).mean(0)
        for step, loss in zip(self._steps, losses := found.tolist(), strict=False):
            if not math.isfinite(loss):
                raise Diverged(step.number, loss, step.lr)
        if not math.isfinite(losses[-1]):
            raise self.failure("the weights after it are not finite")
        del self._steps[:-1]

    def failure(self, reason: str) -> Diverged:
        """Return the exception for a fault after the last step, whose loss is finite."""
        step = self._steps[-1] if self._steps else _Step(0, math.nan, torch.tensor(torch.nan))
        return Diverged(step.number, step.loss.item(), step.lr, reason)
