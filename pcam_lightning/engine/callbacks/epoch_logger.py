"""How a run shows that it moves: a bar on a terminal, one line an epoch in a log file."""

import logging
import sys
import time
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar, TQDMProgressBar

log = logging.getLogger(__name__)


def progress() -> ProgressBar:
    """The bar where stdout is a terminal, else `EpochLogger`."""
    return TQDMProgressBar(leave=True) if sys.stdout.isatty() else EpochLogger()


class EpochLogger(ProgressBar):
    """One log line for each epoch: losses, validation AUROC, learning rate, seconds.

    After a resume inside an epoch, `train/loss` and the seconds cover the rest of that epoch, and
    the line says so. A progress bar to Lightning, so that it adds none of its own.
    """

    def __init__(self) -> None:
        super().__init__()
        self._losses: list[torch.Tensor] = []
        self._start, self._is_whole, self._validated = 0.0, False, False
        self._enabled = True

    def disable(self) -> None:
        """Lightning calls this on all ranks but the first."""
        self._enabled = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Lightning starts no epoch where it resumes inside one.
        self._losses, self._start, self._is_whole = [], time.perf_counter(), False
        self._validated = False

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._losses, self._start, self._is_whole = [], time.perf_counter(), True

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validated = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._losses.append(outputs["loss"].detach())  # still on its device: no waiting for it

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._enabled or not (
            self._losses or self._validated
        ):  # resumed at the end of this epoch
            return
        shown = [f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"]
        if self._losses:
            shown.append(f"train/loss {torch.stack(self._losses).mean().item():.3f}")
        for name in ("val/loss", "val/auroc"):
            if name in trainer.callback_metrics:
                shown.append(f"{name} {trainer.callback_metrics[name].item():.3f}")
        shown.append(f"lr {trainer.optimizers[0].param_groups[0]['lr']:.1e}")
        seconds = f"{time.perf_counter() - self._start:.1f} s"
        shown.append(seconds if self._is_whole else f"{seconds} since the resume")
        log.info("  ".join(shown))
