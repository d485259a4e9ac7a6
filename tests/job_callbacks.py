"""Callbacks that tests name in configs."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer


class SlowSteps(Callback):
    """Delay every step, so that a test can stop the run.

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
    """Callback that fails when training starts."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        raise RuntimeError("planted")


class DieUntil(Callback):
    """Callback that ends its job in some way at the first batch, until a file exists.

    Args:
        how: `kill`, `memory`, `bug`, `hang...`, or anything else for a job that finishes.
        until: path of the file.
    """

    def __init__(self, how: str, until: str) -> None:
        self.how, self.until = how, Path(until)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.until.exists():
            return
        if self.how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how == "memory":
            block = bytearray(2_500_000_000)
            time.sleep(60)
            del block
        if self.how == "bug":
            raise RuntimeError("planted")
        if self.how.startswith("hang"):  # deaf to Slurm's signal to save
            signal.signal(signal.SIGUSR2, signal.SIG_IGN)
            while not self.until.exists():
                time.sleep(0.2)


class Validating(Callback):
    """Callback that keeps a file while the run validates."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.path.touch()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.path.unlink()


class KillAtStep(Callback):
    """Callback that kills the process at the step number in a file, if the file exists."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.path.exists() and trainer.global_step == int(self.path.read_text()):
            os.kill(os.getpid(), signal.SIGKILL)


class Plant(Callback):
    """Set all weights, or the variance buffers, to a value after batch `number` of the fit."""

    def __init__(self, number: int, value: float, buffer: bool = False) -> None:
        self.number, self.value, self.buffer = number, value, buffer

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs, batch, batch_idx: int
    ) -> None:
        if trainer.fit_loop.total_batch_idx == self.number:
            buffers = [b for name, b in pl_module.named_buffers() if name.endswith("running_var")]
            with torch.no_grad():
                for tensor in buffers if self.buffer else pl_module.parameters():
                    tensor.fill_(self.value)
