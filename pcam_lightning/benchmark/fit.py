"""Fits that pause after some steps, so that several implementations can be measured in turn."""

import time
from collections.abc import Callable, Generator
from threading import Semaphore, Thread
from typing import Any, Literal

from lightning import Callback, LightningModule, Trainer

from pcam_lightning.benchmark.timer import Sample

MIN_SECONDS = 0.1
"""Least seconds of training steps between two pauses, since a pause costs time itself."""


class StepGate(Callback):
    """Callback that pauses a fit after some steps, or after each epoch including its validation.

    `sample` is the work since the last pause. If the fit pauses after steps, the time between the
    last step of an epoch and the next epoch is excluded.
    """

    def __init__(self, per: Literal["step", "epoch"] = "step") -> None:
        self.per = per
        self.requested, self.finished = Semaphore(0), Semaphore(0)
        self.closed = False
        self.sample = Sample(0)
        self._patches, self._steps, self._waited, self._resumed_at = 0, 0, 0.0, 0.0
        self._excluded, self._step_ended_at = 0.0, 0.0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._patches, self._steps = self._patches + len(batch.row), self._steps + 1
        if self.per == "step" and time.perf_counter() - self._resumed_at > MIN_SECONDS:
            self._pause(trainer)
        self._step_ended_at = time.perf_counter()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.per == "step" and self._step_ended_at:
            self._excluded += time.perf_counter() - self._step_ended_at

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self.per == "epoch":
            self._patches += len(batch.row)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.per == "epoch":
            self._pause(trainer)

    def _pause(self, trainer: Trainer) -> None:
        waited = getattr(trainer.train_dataloader, "waited", 0.0)
        self.sample = Sample(self._patches, waited - self._waited, self._steps, self._excluded)
        self._patches, self._steps, self._waited, self._excluded = 0, 0, waited, 0.0
        self.finished.release()
        self.requested.acquire()
        trainer.should_stop |= self.closed
        self._resumed_at = time.perf_counter()


def iterate_fit(fit: Callable[[StepGate], None], gate: StepGate) -> Generator[Sample]:
    """Run `fit` in pieces and yield the sample of each; the caller's `next` starts the next piece.

    The fit runs in its own thread, but only while the caller waits for a sample: two such fits
    never run at the same time. Closing the generator stops the fit.

    Args:
        fit: runs a whole fit, with the gate among the trainer's callbacks.
        gate: decides when the fit pauses.

    Raises:
        Exception: any exception that `fit` raises.
    """
    failures: list[BaseException] = []

    def run() -> None:
        gate.requested.acquire()
        try:
            if not gate.closed:
                fit(gate)
        except BaseException as error:
            failures.append(error)
        gate.closed = True
        gate.finished.release()

    thread = Thread(target=run, daemon=True)
    thread.start()
    try:
        while True:
            gate.requested.release()
            gate.finished.acquire()
            if gate.closed:
                break
            yield gate.sample
    finally:
        gate.closed = True
        gate.requested.release()
        thread.join()
    if failures:
        raise failures[0]
