"""Callbacks that jobs of the tests name in their configs."""

import os
import signal
import time
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer


class SlowSteps(Callback):
    """Makes a run long enough to be stopped.

    Args:
        seconds: pause before each step.
        until: path of a file; steps are fast once it exists.
    """

    def __init__(self, seconds: float, until: str | None = None) -> None:
        self.seconds = seconds
        self.until = None if until is None else Path(until)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if not (self.until and self.until.exists()):
            time.sleep(self.seconds)


class Failing(Callback):
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        raise RuntimeError("planted")


class Validating(Callback):
    """Keeps a file there while a run validates."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.path.touch()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.path.unlink()


class KillAtStep(Callback):
    """Kills its own process at the step that a file names, if there is one."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.path.exists() and trainer.global_step == int(self.path.read_text()):
            os.kill(os.getpid(), signal.SIGKILL)
