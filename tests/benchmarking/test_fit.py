import threading

import pytest

from pcam_lightning.benchmarking.fit import Gate, steps


class Fit:
    """Something like a trainer with so many steps."""

    should_stop = False

    def __init__(self, length: int) -> None:
        self.length, self.made = length, 0

    def __call__(self, gate: Gate) -> None:
        while self.made < self.length and not self.should_stop:
            self.made += 1
            gate.on_train_batch_end(self, None, None, None, 0)  # type: ignore[arg-type]


def test_a_fit_goes_on_only_when_asked() -> None:
    first, second = Fit(3), Fit(3)
    one, other = steps(first), steps(second)
    assert (next(one), next(one), next(other)) == (0, 1, 0)
    assert (first.made, second.made) == (2, 1)
    assert [*one] == [2] and (first.made, second.made) == (3, 1)


def test_it_is_stopped_when_nobody_asks_for_more() -> None:
    before, fit = threading.active_count(), Fit(100)
    asked = steps(fit)
    next(asked)
    asked.close()
    assert fit.should_stop and fit.made == 1
    assert threading.active_count() == before


def test_its_errors_are_raised_where_steps_are_asked_for() -> None:
    def fail(gate: Gate) -> None:
        raise ValueError("no step")

    with pytest.raises(ValueError, match="no step"):
        next(steps(fail))
