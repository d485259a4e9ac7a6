import threading
from types import SimpleNamespace
from typing import Any

import pytest

from pcam_lightning.benchmark import fit as fitting
from pcam_lightning.benchmark.fit import StepGate, iterate_fit

BATCH = SimpleNamespace(row=range(16))


@pytest.fixture(autouse=True)
def _pause_after_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "MIN_SECONDS", 0.0)


class Fit:
    """Fake trainer: epochs of two steps and one batch of validation."""

    should_stop = False

    def __init__(self, epochs: int) -> None:
        self.epochs, self.steps = epochs, 0
        self.train_dataloader = SimpleNamespace(waited=0.0)

    def __call__(self, gate: StepGate) -> None:
        trainer: Any = self
        module: Any = None
        for _ in range(self.epochs):
            gate.on_train_epoch_start(trainer, module)
            for index in range(2):
                if self.should_stop:
                    return
                self.steps += 1
                self.train_dataloader.waited += 0.25
                gate.on_train_batch_end(trainer, module, None, BATCH, index)
            gate.on_validation_batch_end(trainer, module, None, BATCH, 0)
            gate.on_train_epoch_end(trainer, module)


def test_a_fit_runs_only_while_a_sample_is_requested() -> None:
    first, second = Fit(2), Fit(2)
    one, other = iterate_fit(first, StepGate()), iterate_fit(second, StepGate())
    assert [next(each)[:3] for each in (one, one, other)] == [(16, 0.25, 1)] * 3
    assert (first.steps, second.steps) == (2, 1)
    assert len([*one]) == 2 and (first.steps, second.steps) == (4, 1)


def test_an_epoch_includes_validation() -> None:
    fit = Fit(3)
    done = iterate_fit(fit, StepGate("epoch"))
    assert [next(done)[:3], next(done)[:3]] == [(48, 0.5, 2)] * 2
    assert fit.steps == 4


def test_steps_exclude_the_end_of_an_epoch() -> None:
    done = [*iterate_fit(Fit(2), StepGate())]
    assert [sample.excluded > 0 for sample in done] == [False, False, True, False]


def test_closing_stops_the_fit_and_its_thread() -> None:
    before, fit = threading.active_count(), Fit(50)
    samples = iterate_fit(fit, StepGate())
    next(samples)
    samples.close()
    assert fit.should_stop and fit.steps == 1
    assert threading.active_count() == before


def test_errors_of_the_fit_are_raised_to_the_caller() -> None:
    def fail(gate: StepGate) -> None:
        raise ValueError("no step")

    with pytest.raises(ValueError, match="no step"):
        next(iterate_fit(fail, StepGate()))
