"""torch.compile for a run's network, and whether it pays for itself."""

import logging
import time
from statistics import median
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

log = logging.getLogger(__name__)


class Compilation(Callback):
    """Compile the network after its first steps, and say when training ends what came of it.

    The steps before are what compiled ones are held against. From which step on the network is
    compiled depends on the step's number alone, so that a run that goes on computes what it would
    have computed. Names in checkpoints stay as they are.

    Args:
        enabled: False leaves the network as it is.
        eager_steps: so many steps of a run are not compiled, at least 2.
    """

    def __init__(self, enabled: bool, eager_steps: int = 20) -> None:
        self.enabled, self.eager_steps = enabled, eager_steps
        self._eager: list[float] = []
        self._compiled: list[float] = []
        self._is_compiled = False
        self._start = 0.0

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if not self.enabled:
            return
        if trainer.global_step >= self.eager_steps and not self._is_compiled:
            pl_module.model.compile()  # type: ignore[operator]
            self._is_compiled = True
        self._start = self._now(pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        steps = self._compiled if self._is_compiled else self._eager
        if self.enabled and len(steps) <= self.eager_steps:
            steps.append(self._now(pl_module) - self._start)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        compiled = trainer.global_step - self.eager_steps
        if trainer.is_global_zero and (said := verdict(self._eager, self._compiled, compiled)):
            log.info(said)

    def _now(self, module: LightningModule) -> float:
        # A GPU runs behind the host, who waits for it only as long as steps are timed.
        if module.device.type == "cuda" and len(self._compiled) <= self.eager_steps:
            torch.cuda.synchronize(module.device)
        return time.perf_counter()


def verdict(eager: list[float], compiled: list[float], steps: int) -> str | None:
    """What compiling took, what it saves a step, and what that comes to; None if too few are timed.

    Args:
        eager: seconds of the steps before, of which the first warms up.
        compiled: seconds of the steps from then on, of which the first compiles.
        steps: how many of a run's steps were compiled.
    """
    if len(eager) < 2 or len(compiled) < 2:
        return None
    before, after = median(eager[1:]), median(compiled[1:])
    took, saved = compiled[0] - after, before - after
    gain = saved * steps - took
    pays = f"pays after {took / saved:,.0f} steps" if saved > 0 else "never pays"
    return (
        f"compile=true: {took:.1f} s to compile, {1e3 * before:.2f} ms a step before and "
        f"{1e3 * after:.2f} ms after; {pays}, and {'saved' if gain > 0 else 'cost'} "
        f"{abs(gain):.1f} s over this run's {steps:,} steps"
    )
