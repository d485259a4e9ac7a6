"""Training speed of a run, and the share of time spent waiting for data."""

import time
from typing import Any

from lightning import Callback, LightningModule, Trainer


class Throughput(Callback):
    """Callback that logs two numbers per epoch, without the time of validation.

    `train/patches_per_second` counts the training patches of all ranks. `train/waiting_for_data` is
    the share of time that this rank's steps waited for a batch, in [0, 1]; it needs a loader that
    measures it, such as `BatchLoader`. `patches`, `seconds` and `waited` (seconds) are totals over
    the epochs of this start; after a resume inside an epoch, the rest of that epoch counts. On a
    GPU, only the time per epoch is right, since the host runs ahead of the device.
    """

    def __init__(self) -> None:
        self.patches, self.seconds, self.waited = 0, 0.0, 0.0
        self._epoch_patches, self._epoch_seconds, self._waited_before = 0, 0.0, 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Lightning calls no `on_train_epoch_start` when it resumes inside an epoch.
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._epoch_patches, self._epoch_seconds = 0, -time.perf_counter()
        self._waited_before = getattr(trainer.train_dataloader, "waited", 0.0)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._epoch_patches += len(batch.row) * trainer.world_size

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._epoch_seconds += time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._epoch_seconds -= time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._epoch_patches:  # resumed when only the validation was left
            return
        self._epoch_seconds += time.perf_counter()
        self.patches += self._epoch_patches
        self.seconds += self._epoch_seconds
        seconds = max(self._epoch_seconds, 1e-9)
        speed = self._epoch_patches / seconds
        pl_module.log("train/patches_per_second", speed, sync_dist=True)
        if (waited := getattr(trainer.train_dataloader, "waited", None)) is not None:
            waited -= self._waited_before
            self.waited += waited
            pl_module.log("train/waiting_for_data", waited / seconds, sync_dist=True)
