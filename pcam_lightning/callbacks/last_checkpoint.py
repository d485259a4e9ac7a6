"""A checkpoint to go on from, at any step, and nothing lost between it and the files of the run."""

import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import Logger

from pcam_lightning.errors import Preempted
from pcam_lightning.runs.record import write_bytes

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
"""USR2 is what submitit sends before the time limit; the first Ctrl-C stops, the second kills."""


class LastCheckpoint(Checkpoint):
    """Save `last.ckpt` at the end of every epoch, every few minutes inside it and, when a signal
    asks to stop, after the current step.

    (Lightning's `ModelCheckpoint` with `save_last`, as of 2.6, saves it only where the best one has
    changed.) At every save the metrics logged so far are on disk, and a run that goes on from there
    drops whatever an interrupted start wrote afterwards. A step at which gradients are still
    accumulated leaves saving to the next one, the last step of an epoch to the end of the epoch.

    Args:
        path: of the checkpoint.
        metrics: the `metrics.csv` of the run.
        every_minutes: between two checkpoints inside an epoch.

    Raises:
        Preempted: out of `Trainer.fit`, when a signal has come and all is saved.
    """

    def __init__(self, path: str, metrics: str, every_minutes: float = 5.0) -> None:
        self.path, self.metrics, self.every_minutes = Path(path), Path(metrics), every_minutes
        self._saved = 0.0
        self._rows: int | None = None
        self._signal: int | None = None
        self._loggers: list[Logger] = []
        self._handlers: dict[int, Any] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Not when training starts: a run that was killed while it was tested has no step left.
        if self._rows is not None and trainer.is_global_zero:
            keep_metrics(self.metrics, self._rows)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._saved, self._loggers = time.monotonic(), trainer.loggers
        if threading.current_thread() is threading.main_thread():  # elsewhere Python refuses
            for number in SIGNALS:
                self._handlers[number] = signal.signal(number, self._remember)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        epoch_loop = trainer.fit_loop.epoch_loop
        due = time.monotonic() - self._saved > 60 * self.every_minutes
        asked = due or self._signal is not None
        if trainer.world_size > 1:
            asked = trainer.strategy.reduce_boolean_decision(asked, all=False)
        if not asked or epoch_loop.batch_progress.is_last_batch or epoch_loop._should_accumulate():
            return
        # Lightning writes this step's metrics after this hook, which would be too late for them.
        trainer._logger_connector.update_train_step_metrics()
        self._save(trainer)
        self._stop_if_asked(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer)
        self._stop_if_asked(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restore_handlers()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._restore_handlers()

    def state_dict(self) -> dict[str, int]:
        """How much of `metrics.csv` belongs to the checkpoint: its lines of data."""
        for logger in self._loggers:
            logger.save()
        return {"metrics_rows": len(read_metrics(self.metrics))}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Remember what `state_dict` told until `fit` starts: validation loads it as well."""
        self._rows = state_dict["metrics_rows"]

    def _save(self, trainer: Trainer) -> None:
        trainer.save_checkpoint(self.path)
        self._saved = time.monotonic()

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self._signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._signal = number

    def _stop_if_asked(self, trainer: Trainer) -> None:
        asked = self._signal is not None
        if trainer.world_size > 1:
            asked = trainer.strategy.reduce_boolean_decision(asked, all=False)
        if asked:
            raise Preempted(self._signal or signal.SIGTERM)

    def _restore_handlers(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()


def read_metrics(path: Path) -> list[str]:
    """The lines of data of a CSV file, without its header; none if it is not there."""
    return path.read_text().splitlines()[1:] if path.is_file() else []


def keep_metrics(path: Path, rows: int) -> None:
    """Cut a CSV file off after so many lines of data."""
    if len(read_metrics(path)) > rows:
        lines = path.read_text().splitlines(keepends=True)
        write_bytes(path, "".join(lines[: rows + 1]).encode())
