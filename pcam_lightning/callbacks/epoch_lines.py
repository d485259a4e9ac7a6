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
    """The bar where stdout is a terminal, else `EpochLines`."""
    return TQDMProgressBar(leave=True) if sys.stdout.isatty() else EpochLines()


class EpochLines(ProgressBar):
    """One log line for each epoch: losses, validation AUROC, learning rate, seconds.

    A progress bar to Lightning, so that it adds none of its own.
    """

    def __init__(self) -> None:
        super().__init__()
        self._losses: list[torch.Tensor] = []
        self._start = 0.0

    def disable(self) -> None:
        """Lightning calls this on all ranks but the first."""
        log.disabled = True

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._losses, self._start = [], time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._losses.append(outputs["loss"].detach())  # still on its device: no waiting for it

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._losses:
            return
        loss = torch.stack(self._losses).mean().item()
        shown = [
            f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}",
            f"train/loss {loss:.3f}",
        ]
        for name in ("val/loss", "val/auroc"):
            if name in trainer.callback_metrics:
                shown.append(f"{name} {trainer.callback_metrics[name].item():.3f}")
        shown.append(f"lr {trainer.optimizers[0].param_groups[0]['lr']:.1e}")
        shown.append(f"{time.perf_counter() - self._start:.1f} s")
        log.info("  ".join(shown))
