"""Progress display: a bar on a terminal, one line per epoch in a log file."""

import logging
import sys
import time
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar, TQDMProgressBar

log = logging.getLogger(__name__)


def progress() -> ProgressBar:
    """Return a progress bar if stdout is a terminal, else `EpochLogger`."""
    return TQDMProgressBar(leave=True) if sys.stdout.isatty() else EpochLogger()


class EpochLogger(ProgressBar):
    """Callback that logs one line per epoch: losses, validation AUROC, learning rate, seconds.

    After a resume inside an epoch, `train/loss` and the seconds cover the rest of that epoch; the
    line ends with "since the resume". Lightning takes it for a progress bar and adds no other.
    """

    def __init__(self) -> None:
        super().__init__()
        self._losses: list[torch.Tensor] = []
        self._start, self._is_whole, self._validated = 0.0, False, False
        self._enabled = True

    def disable(self) -> None:
        """Log nothing; Lightning calls this on all ranks but the first."""
        self._enabled = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Lightning calls no `on_train_epoch_start` when it resumes inside an epoch.
        self._losses, self._start, self._is_whole = [], time.perf_counter(), False
        self._validated = False

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._losses, self._start, self._is_whole = [], time.perf_counter(), True

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validated = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._losses.append(outputs["loss"].detach())  # stays on its device: no synchronization

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        was_done = not (self._losses or self._validated)  # resumed at the end of this epoch
        if was_done or not self._enabled:
            return
        of = f"/{trainer.max_epochs}" if (trainer.max_epochs or -1) > 0 else ""  # -1: no limit
        shown = [f"epoch {trainer.current_epoch + 1}{of}"]
        if self._losses:
            shown.append(f"train/loss {torch.stack(self._losses).mean().item():.3f}")
        for name in ("val/loss", "val/auroc"):
            if name in trainer.callback_metrics:
                shown.append(f"{name} {trainer.callback_metrics[name].item():.3f}")
        shown.append(f"lr {trainer.optimizers[0].param_groups[0]['lr']:.1e}")
        seconds = f"{time.perf_counter() - self._start:.1f} s"
        shown.append(seconds if self._is_whole else f"{seconds} since the resume")
        log.info("  ".join(shown))
