"""Callbacks that jobs of the tests name in their configs."""

import time
from typing import Any

from lightning import Callback, LightningModule, Trainer


class SlowSteps(Callback):
    """Makes a run long enough to be stopped."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        time.sleep(self.seconds)


class Failing(Callback):
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        raise RuntimeError("planted")
