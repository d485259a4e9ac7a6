"""How fast a run trains."""

import time
from typing import Any

from lightning import Callback, LightningModule, Trainer


class Throughput(Callback):
    """Log `train/patches_per_second` each epoch: training patches of all ranks, validation apart.

    `patches` and `seconds` add up over the epochs of this start. On a GPU the clock is right over
    an epoch, not over a step, since the host runs ahead of the device.
    """

    def __init__(self) -> None:
        self.patches, self.seconds = 0, 0.0
        self._epoch_patches, self._epoch_seconds = 0, 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._epoch_patches, self._epoch_seconds = 0, -time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._epoch_patches += len(batch.row) * trainer.world_size

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._epoch_seconds += time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._epoch_seconds -= time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._epoch_seconds += time.perf_counter()
        self.patches += self._epoch_patches
        self.seconds += self._epoch_seconds
        speed = self._epoch_patches / max(self._epoch_seconds, 1e-9)
        pl_module.log("train/patches_per_second", speed, sync_dist=True)
