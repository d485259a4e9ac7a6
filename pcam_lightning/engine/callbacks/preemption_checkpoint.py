"""Callback that saves a resumable checkpoint at any step, together with the run's other files."""

import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, WeightAveraging
from lightning.pytorch.loggers import Logger
from lightning.pytorch.trainer.states import TrainerFn
from torch import distributed

from pcam_lightning.engine.lightning_private import (
    disable_sigterm_broadcast,
    validates_next,
    write_step_metrics,
)
from pcam_lightning.errors import Preempted
from pcam_lightning.files import atomic_write
from pcam_lightning.runs.stop_signals import stop_signals

SECONDS_BETWEEN_AGREEMENTS = 1.0
"""Interval at which several ranks agree whether to save or stop."""


class PreemptionCheckpoint(Checkpoint):
    """Callback that saves `last.ckpt` at the end of every epoch, every few minutes inside an epoch
    and, when a signal asks the run to stop, after the current batch.

    Lightning's `ModelCheckpoint` with `save_last` (2.6) saves only when the best checkpoint
    changes. At every save, the metrics logged so far are on disk; a resumed run drops the rows that
    an interrupted start wrote after its last save. While gradients accumulate, saving waits for the
    optimizer step; before a validation, it waits for the first batch after it or the end of the
    epoch. An interrupted validation starts again from its first batch.

    Args:
        path: path of the checkpoint.
        metrics: path of the run's `metrics.csv`.
        every_minutes: minutes between two checkpoints inside an epoch.

    Raises:
        Preempted: from the trainer, after a signal (see `stop_signals`), when all is saved.
    """

    def __init__(self, path: str, metrics: str, every_minutes: float = 5.0) -> None:
        self.path, self.metrics, self.every_minutes = Path(path), Path(metrics), every_minutes
        self._rows: int | None = None
        self._loggers: list[Logger] = []
        self._signals = ExitStack()
        self._saved = self._agreed = 0.0
        self._batches, self._batches_between = 0, 1

    @property
    def state_key(self) -> str:
        """The key in checkpoints, which keeps the class's first name."""
        return "LastCheckpoint"

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._signals.enter_context(stop_signals.deferred())

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Not in `on_train_start`: a run that was killed while testing has no step left.
        if self._rows is not None and trainer.is_global_zero:
            keep_metrics(self.metrics, self._rows)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start(trainer)
        self._saved, self._loggers = time.monotonic(), trainer.loggers

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start(trainer)
        if trainer.state.fn == TrainerFn.FITTING:
            # Drop the batch that `_save_before_validation` counted as started.
            trainer.fit_loop.epoch_loop.val_loop.batch_progress.total.reset_on_restart()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        is_due, number = self._requests(trainer)
        if not (is_due or number):
            return
        is_end = trainer.is_last_batch or 0 < trainer.max_steps <= trainer.global_step
        if is_end or validates_next(trainer) or _is_accumulating(trainer):
            self._batches_between = 1
            return
        write_step_metrics(trainer)
        self._save(trainer)
        if number:
            raise Preempted(number)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        _, number = self._requests(trainer)
        if not number:
            return
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            # Lightning would not repeat this validation after a resume.
            if _is_accumulating(trainer) or trainer.fit_loop.done:
                return
            self._save_before_validation(trainer)
        raise Preempted(number)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        _, number = self._requests(trainer)
        if number:
            raise Preempted(number)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer)
        self._stop_if_asked(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._stop_if_asked(trainer)
        self._signals.close()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._signals.close()

    def state_dict(self) -> dict[str, int]:
        """Return the number of `metrics.csv` rows that belong to the checkpoint."""
        for logger in self._loggers:
            logger.save()
        return {"metrics_rows": len(read_metrics(self.metrics))}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Keep the number of rows for `on_fit_start`: validation loads this state as well."""
        self._rows = state_dict["metrics_rows"]

    def _start(self, trainer: Trainer) -> None:
        stop_signals.install()  # again, since Lightning (2.6) has replaced the SIGTERM handler
        disable_sigterm_broadcast(trainer)
        # Training, validation and test batches take different times.
        self._agreed, self._batches, self._batches_between = time.monotonic(), 0, 1

    def _save(self, trainer: Trainer) -> None:
        trainer.save_checkpoint(self.path)
        self._saved = time.monotonic()

    def _save_before_validation(self, trainer: Trainer) -> None:
        """Save the state after the last training step."""
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, WeightAveraging):  # swaps the training weights back in
                callback.on_validation_epoch_end(trainer, trainer.lightning_module)
        # Lightning (2.6) repeats a validation whose first batch is started and not processed.
        progress = trainer.fit_loop.epoch_loop.val_loop.batch_progress
        progress.reset()
        progress.increment_ready()
        progress.increment_started()
        self._save(trainer)

    def _requests(self, trainer: Trainer) -> tuple[bool, int]:
        """Return whether a checkpoint is due, and the number of a received signal, 0 for none.

        The result is the same on all ranks. They agree about once a second, since at every batch
        the host would have to wait for the GPU.
        """
        self._batches += 1
        if self._batches < self._batches_between:
            return False, 0
        now = time.monotonic()
        is_due = now - self._saved > 60 * self.every_minutes
        batch_seconds = (now - self._agreed) / self._batches
        is_due, number, batch_seconds = _highest(
            trainer, is_due, stop_signals.first or 0, batch_seconds
        )
        if trainer.world_size > 1:
            batches = SECONDS_BETWEEN_AGREEMENTS / max(batch_seconds, 1e-6)
            self._batches_between = max(1, int(batches))
        self._agreed, self._batches = now, 0
        return bool(is_due), int(number)

    def _stop_if_asked(self, trainer: Trainer) -> None:
        (number,) = _highest(trainer, stop_signals.first or 0)
        if number:
            raise Preempted(int(number))


def read_metrics(path: Path) -> list[str]:
    """Return the lines of a CSV file without its header; none if there is no file."""
    return path.read_text().splitlines()[1:] if path.is_file() else []


def keep_metrics(path: Path, rows: int) -> None:
    """Truncate a CSV file after this number of lines below its header."""
    if len(read_metrics(path)) > rows:
        lines = path.read_text().splitlines(keepends=True)
        atomic_write(path, "".join(lines[: rows + 1]).encode())


def _highest(trainer: Trainer, *values: float) -> list[float]:
    """Return the maximum of each value over all ranks; a collective operation."""
    if trainer.world_size == 1:
        return list(values)
    tensor = torch.tensor(values, dtype=torch.float32, device=trainer.strategy.root_device)
    distributed.all_reduce(tensor, distributed.ReduceOp.MAX)
    return tensor.tolist()


def _is_accumulating(trainer: Trainer) -> bool:
    """Return whether the current batch's gradients wait for the optimizer step of a later batch."""
    batches = trainer.fit_loop.epoch_loop.batch_progress.current.ready
    return not trainer.is_last_batch and batches % trainer.accumulate_grad_batches != 0
