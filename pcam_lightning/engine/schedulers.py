"""Learning-rate schedules.

Each function takes the optimizer, the number of optimizer steps in the run (infinite where only a
time or a stop ends it) and in an epoch, and its own settings; it returns `lr_scheduler` entries for
`LightningModule.configure_optimizers`. Except for `plateau`, a schedule is a pure function of the
step.
"""

import math
from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LinearLR, OneCycleLR, ReduceLROnPlateau

from pcam_lightning.errors import InputError

Entries = list[dict[str, Any]]


class CosineLR(LambdaLR):
    """A cosine schedule that keeps its length in a checkpoint, as torch's `OneCycleLR` does."""

    def __init__(
        self, optimizer: Optimizer, factor: Callable[[int], float], total_steps: int
    ) -> None:
        self.total_steps = total_steps
        super().__init__(optimizer, factor)


def constant(
    optimizer: Optimizer, steps: float, steps_per_epoch: int, warmup_epochs: float = 0.0
) -> Entries:
    """Keep the optimizer's learning rate after a linear warm-up of `warmup_epochs`."""
    return _by_step(optimizer, lambda step: 1.0, warmup_epochs * steps_per_epoch)


def step(
    optimizer: Optimizer,
    steps: float,
    steps_per_epoch: int,
    warmup_epochs: float = 0.0,
    every_epochs: int = 3,
    gamma: float = 0.1,
) -> Entries:
    """Multiply the learning rate by `gamma` after every `every_epochs` epochs."""

    def decay(step: int) -> float:
        return gamma ** (step // (every_epochs * steps_per_epoch))

    return _by_step(optimizer, decay, warmup_epochs * steps_per_epoch)


def cosine(
    optimizer: Optimizer,
    steps: float,
    steps_per_epoch: int,
    warmup_epochs: float = 0.0,
    final: float = 0.0,
) -> Entries:
    """Follow half a cosine down to `final` times the learning rate (Loshchilov & Hutter 2017).

    It depends on the number of steps: like `onecycle`, it cannot be extended.
    """
    steps = _finite(steps, "cosine")
    warmup = warmup_epochs * steps_per_epoch

    def decay(step: int) -> float:
        progress = min(1.0, max(0.0, step - warmup) / max(1.0, steps - warmup))
        return final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2

    schedule = CosineLR(optimizer, _warmed_up(decay, warmup), steps + 1)
    return [{"scheduler": schedule, "interval": "step", "name": "lr"}]


def onecycle(
    optimizer: Optimizer, steps: float, steps_per_epoch: int, warmup_epochs: float = 1.0
) -> Entries:
    """Rise from 1/25 of the learning rate to all of it, then fall to almost 0 (Smith & Topin 2018).

    Momentum (or Adam's first beta) moves in the opposite direction, as in torch's `OneCycleLR`.
    """
    steps = _finite(steps, "onecycle")
    share = min(0.9, max(1.0, warmup_epochs * steps_per_epoch) / steps)
    peaks = [group["lr"] for group in optimizer.param_groups]
    momentum = any(group.get("momentum") or group.get("betas") for group in optimizer.param_groups)
    schedule = OneCycleLR(
        optimizer, peaks, total_steps=steps + 1, pct_start=share, cycle_momentum=momentum
    )
    return [{"scheduler": schedule, "interval": "step", "name": "lr"}]


def plateau(
    optimizer: Optimizer,
    steps: float,
    steps_per_epoch: int,
    warmup_epochs: float = 0.0,
    factor: float = 0.3,
    patience: int = 1,
) -> Entries:
    """Multiply by `factor` if `val/loss` has not fallen for more than `patience` validations."""
    schedule = ReduceLROnPlateau(optimizer, factor=factor, patience=patience)
    entry = {"scheduler": schedule, "interval": "epoch", "monitor": "val/loss", "name": "lr"}
    warmup = round(warmup_epochs * steps_per_epoch)
    if warmup <= 1:
        return [entry]
    # Both multiply the current rate, so they can share an optimizer.
    rise = LinearLR(optimizer, start_factor=1 / warmup, total_iters=warmup - 1)
    return [entry, {"scheduler": rise, "interval": "step", "name": "warmup"}]


def _finite(steps: float, name: str) -> int:
    """Return the number of steps of a run, on which the schedule `name` depends.

    Raises:
        InputError: the number is infinite.
    """
    if math.isinf(steps):
        raise InputError(
            f"scheduler: {name} ends after the last step, which is unknown; expected a limit "
            "trainer.max_steps or trainer.max_epochs, or scheduler=none, step or plateau"
        )
    return int(steps)


def _by_step(optimizer: Optimizer, decay: Callable[[int], float], warmup: float) -> Entries:
    schedule = LambdaLR(optimizer, _warmed_up(decay, warmup))
    return [{"scheduler": schedule, "interval": "step", "name": "lr"}]


def _warmed_up(decay: Callable[[int], float], warmup: float) -> Callable[[int], float]:
    """Return the factor of each step, from `decay` and a linear warm-up of `warmup` steps."""

    def factor(step: int) -> float:
        return min(1.0, (step + 1) / max(1.0, warmup)) * decay(step)

    return factor


def check_length(scheduler: Any, steps: float) -> None:
    """Check that a schedule, as restored from a checkpoint, ends with this run.

    Args:
        scheduler: scheduler of this run, with the checkpoint's state.
        steps: number of optimizer steps in this run, or infinity.

    Raises:
        InputError: the schedule depends on the number of steps, and the number has changed.
    """
    if isinstance(scheduler, CosineLR | OneCycleLR) and scheduler.total_steps - 1 != steps:
        name = "cosine" if isinstance(scheduler, CosineLR) else "onecycle"
        raise InputError(
            f"scheduler: the checkpoint's {name} schedule ends after {scheduler.total_steps - 1} "
            f"steps, expected {steps:.0f} as in this run; keep trainer.max_epochs, "
            "trainer.max_steps and the data as they were, or use scheduler=none, step or plateau "
            "from the start, which can be extended"
        )
