"""A checkpoint to go on from, at any step, and nothing lost between it and the files of the run."""

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

from pcam_lightning.errors import Preempted
from pcam_lightning.files import atomic_write
from pcam_lightning.runs.stop_signals import stop_signals

SECONDS_BETWEEN_AGREEMENTS = 1.0
"""How often several ranks ask each other whether to save or stop."""


class PreemptionCheckpoint(Checkpoint):
    """Save `last.ckpt` at the end of every epoch, every few minutes inside it and, when a signal
    asks to stop, after the current batch.

    (Lightning's `ModelCheckpoint` with `save_last`, as of 2.6, saves it only where the best one has
    changed.) At every save the metrics logged so far are on disk, and a run that goes on from there
    drops whatever an interrupted start wrote afterwards. A step at which gradients are still
    accumulated leaves saving to the next one, the last step of an epoch to its validation. A
    validation that is interrupted starts again from its first batch.

    Args:
        path: of the checkpoint.
        metrics: the `metrics.csv` of the run.
        every_minutes: between two checkpoints inside an epoch.

    Raises:
        Preempted: out of the trainer, when a signal (see `stop_signals`) has come and all is saved.
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
        """The name in checkpoints; the class was called so when the first were written."""
        return "LastCheckpoint"

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._signals.enter_context(stop_signals.deferred())

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Not when training starts: a run that was killed while it was tested has no step left.
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
            # After a resume the batch that `_save_before_validation` began would stay in the count.
            trainer.fit_loop.epoch_loop.val_loop.batch_progress.total.reset_on_restart()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        epoch_loop = trainer.fit_loop.epoch_loop
        is_due, number = self._asked(trainer)
        if not (is_due or number):
            return
        if epoch_loop.batch_progress.is_last_batch or epoch_loop._should_accumulate():
            self._batches_between = 1
            return
        # Lightning writes this step's metrics after this hook, which would be too late for them.
        trainer._logger_connector.update_train_step_metrics()
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
        _, number = self._asked(trainer)
        if not number:
            return
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            # Lightning would not come back to this validation.
            if trainer.fit_loop.epoch_loop._should_accumulate() or trainer.fit_loop.done:
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
        _, number = self._asked(trainer)
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
        """How much of `metrics.csv` belongs to the checkpoint: its lines of data."""
        for logger in self._loggers:
            logger.save()
        return {"metrics_rows": len(read_metrics(self.metrics))}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Remember what `state_dict` told until `fit` starts: validation loads it as well."""
        self._rows = state_dict["metrics_rows"]

    def _start(self, trainer: Trainer) -> None:
        # Lightning (2.6) has put a SIGTERM handler of its own before this one, and asks at every
        # step of several ranks whether it has run.
        stop_signals.install()
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = _no_broadcast
        # Batches of training, validation and test take different times.
        self._agreed, self._batches, self._batches_between = time.monotonic(), 0, 1

    def _save(self, trainer: Trainer) -> None:
        trainer.save_checkpoint(self.path)
        self._saved = time.monotonic()

    def _save_before_validation(self, trainer: Trainer) -> None:
        """Save the state that the last training step left."""
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, WeightAveraging):  # gives the averages to the validation
                callback.on_validation_epoch_end(trainer, trainer.lightning_module)
        # Lightning (2.6) validates again where the checkpoint's first batch is begun and not done.
        progress = trainer.fit_loop.epoch_loop.val_loop.batch_progress
        progress.reset()
        progress.increment_ready()
        progress.increment_started()
        self._save(trainer)

    def _asked(self, trainer: Trainer) -> tuple[bool, int]:
        """Whether a checkpoint is due, and the signal that asks to stop, 0 for none.

        The same on all ranks, which agree about once a second: at every batch it would make the
        host wait for the GPU.
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
    """The lines of data of a CSV file, without its header; none if it is not there."""
    return path.read_text().splitlines()[1:] if path.is_file() else []


def keep_metrics(path: Path, rows: int) -> None:
    """Cut a CSV file off after so many lines of data."""
    if len(read_metrics(path)) > rows:
        lines = path.read_text().splitlines(keepends=True)
        atomic_write(path, "".join(lines[: rows + 1]).encode())


def _highest(trainer: Trainer, *values: float) -> list[float]:
    """Return each value's maximum over all ranks, which call this together."""
    if trainer.world_size == 1:
        return list(values)
    tensor = torch.tensor(values, dtype=torch.float32, device=trainer.strategy.root_device)
    distributed.all_reduce(tensor, distributed.ReduceOp.MAX)
    return tensor.tolist()


def _no_broadcast() -> None:
    """Stand in for Lightning's question to all ranks whether SIGTERM has come."""
