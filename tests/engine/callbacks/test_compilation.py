import pytest

from pcam_lightning.engine.callbacks.compilation import verdict


def test_it_pays_when_what_it_saves_is_more_than_it_took() -> None:
    eager, compiled = [9.0, 0.1, 0.1, 0.1], [20.06, 0.06, 0.06, 0.06]
    said = "compile=true: 20.0 s to compile, 100.00 ms a step before and 60.00 ms after; "
    paid = verdict(eager, compiled, 1000)
    assert paid == said + "pays after 500 steps, and saved 20.0 s over this run's 1,000 steps"
    lost = verdict(eager, compiled, 100)
    assert lost == said + "pays after 500 steps, and cost 16.0 s over this run's 100 steps"


def test_it_says_where_it_never_pays() -> None:
    said = verdict([9.0, 0.1, 0.1], [20.2, 0.2, 0.2], 10)
    assert said is not None and "never pays, and cost 21.0 s" in said


@pytest.mark.parametrize(("eager", "compiled"), [([], []), ([1.0], [1.0, 1.0]), ([1.0] * 3, [1.0])])
def test_too_few_steps_say_nothing(eager: list[float], compiled: list[float]) -> None:
    assert verdict(eager, compiled, 1) is None
