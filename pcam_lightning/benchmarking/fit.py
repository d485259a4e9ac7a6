"""Fits that go on one step at a time, so that several can be measured in turn."""

from collections.abc import Callable, Generator
from threading import Semaphore, Thread
from typing import Any

from lightning import Callback, LightningModule, Trainer


class Gate(Callback):
    """Holds a fit after every training step until the next one is asked for."""

    def __init__(self) -> None:
        self.asked, self.made = Semaphore(0), Semaphore(0)
        self.closed = False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.made.release()
        self.asked.acquire()
        trainer.should_stop |= self.closed


def steps(fit: Callable[[Gate], None]) -> Generator[int]:
    """Number the training steps of `fit`, which is given a callback to add to its trainer's.

    The fit runs in a thread of its own, but only while a next step is waited for: no two of such
    fits ever run at the same time. What it raises is raised here; when this is closed, it stops.
    """
    gate, failures = Gate(), []

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
    step = 0
    try:
        while True:
            gate.asked.release()
            gate.made.acquire()
            if gate.closed:
                break
            yield step
            step += 1
    finally:
        gate.closed = True
        gate.asked.release()
        thread.join()
    if failures:
        raise failures[0]
