from typing import Any

import pytest

from pcam_lightning.benchmark.verdict import ADVICE, bound_by, verdicts

ROW = {
    "contender": "pcam_lightning",
    "model": "cnn",
    "parameters": 1,
    "batch_size": 128,
    "precision": "32-true",
    "device": "cpu",
    "median": 1000.0,
    "milliseconds": 128.0,
    "waiting": 0.0,
    "overhead": 0.0,
    "share_of_flops": 0.6,
    "share_of_bandwidth": 0.2,
}


@pytest.mark.parametrize(
    ("facts", "bound"),
    [
        ({}, "compute"),
        ({"share_of_bandwidth": 0.7}, "memory bandwidth"),
        ({"share_of_flops": 0.05, "share_of_bandwidth": 0.09}, "small operations"),
        ({"overhead": 0.2}, "the framework"),
        ({"overhead": 0.2, "waiting": 0.3}, "data"),
        ({"share_of_flops": None}, None),
        ({"median": None}, None),
    ],
)
def test_what_a_step_is_bound_by(facts: dict[str, Any], bound: str | None) -> None:
    assert bound_by(ROW | facts) == bound
    said = verdicts([ROW | facts])
    if bound:
        assert f"bound by {bound} " in said[0] and said[0].endswith(ADVICE[bound])


def test_what_does_not_fit_is_said() -> None:
    row = ROW | {"contender": "bare loop", "median": None}
    assert verdicts([row]) == ["cnn, batch 128, 32-true, cpu: out of memory (bare loop)"]


@pytest.mark.parametrize(
    ("milliseconds", "said"),
    [
        (118.0, "compiling took 30.0 s and saves 10.00 ms a step: it pays after 3,000 steps"),
        (130.0, "compiling took 30.0 s and does not pay, a step takes 2.00 ms longer"),
    ],
)
def test_whether_compiling_pays(milliseconds: float, said: str) -> None:
    eager = ROW | {"contender": "bare loop"}
    compiled = eager | {"contender": "bare loop, compiled", "compile_seconds": 30.0}
    (line,) = verdicts([eager, compiled | {"milliseconds": milliseconds}])
    assert line.endswith(said)
