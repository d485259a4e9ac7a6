"""Fits that go on one piece at a time, so that several can be measured in turn."""

import time
from collections.abc import Callable, Generator
from threading import Semaphore, Thread
from typing import Any, Literal

from lightning import Callback, LightningModule, Trainer

from pcam_lightning.benchmark.timer import Sample

PIECE = 0.1
"""Seconds of training steps that are not interrupted, since an interruption costs some."""


class StepGate(Callback):
    """Holds a fit after some steps, or after each epoch and its validation, until asked for more.

    `work` is what has been done since the last time. Between steps, what happens at the end of an
    epoch is not measured.
    """

    def __init__(self, per: Literal["step", "epoch"] = "step") -> None:
        self.per = per
        self.asked, self.made = Semaphore(0), Semaphore(0)
        self.closed = False
        self.work = Sample(0)
        self._patches, self._steps, self._waited, self._begun = 0, 0, 0.0, 0.0
        self._aside, self._ended = 0.0, 0.0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._patches, self._steps = self._patches + len(batch.row), self._steps + 1
        if self.per == "step" and time.perf_counter() - self._begun > PIECE:
            self._hold(trainer)
        self._ended = time.perf_counter()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.per == "step" and self._ended:
            self._aside += time.perf_counter() - self._ended

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
            self._hold(trainer)

    def _hold(self, trainer: Trainer) -> None:
        waited = getattr(trainer.train_dataloader, "waited", 0.0)
        self.work = Sample(self._patches, waited - self._waited, self._steps, self._aside)
        self._patches, self._steps, self._waited, self._aside = 0, 0, waited, 0.0
        self.made.release()
        self.asked.acquire()
        trainer.should_stop |= self.closed
        self._begun = time.perf_counter()


def iterate_fit(fit: Callable[[StepGate], None], gate: StepGate) -> Generator[Sample]:
    """What `fit`, which is given the gate to add to its trainer's callbacks, does between holds.

    The fit runs in a thread of its own, but only while a next piece is waited for: no two of such
    fits ever run at the same time. What it raises is raised here; when this is closed, it stops.
    """
    failures: list[BaseException] = []

    def run() -> None:
        gate.asked.acquire()
        try:
            if not gate.closed:
                fit(gate)
        except BaseException as error:
            failures.append(error)
        gate.closed = True
        gate.made.release()

    thread = Thread(target=run, daemon=True)
    thread.start()
    try:
        while True:
            gate.asked.release()
            gate.made.acquire()
            if gate.closed:
                break
            yield gate.work
    finally:
        gate.closed = True
        gate.asked.release()
        thread.join()
    if failures:
        raise failures[0]
