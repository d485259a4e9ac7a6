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
def test_the_limit_of_a_step_and_its_advice(facts: dict[str, Any], bound: str | None) -> None:
    assert bound_by(ROW | facts) == bound
    messages = verdicts([ROW | facts])
    if bound:
        assert f"bound by {bound} " in messages[0] and messages[0].endswith(ADVICE[bound])


def test_out_of_memory_is_reported() -> None:
    (message,) = verdicts([ROW | {"contender": "bare loop", "median": None}])
    assert "batch 128" in message and "out of memory (bare loop)" in message


@pytest.mark.parametrize(
    ("milliseconds", "expected"),
    [
        (118.0, "30.0 s and saves 10.00 ms a step: it pays off after 3,000 steps"),
        (130.0, "30.0 s and does not pay off: a step takes 2.00 ms longer"),
    ],
)
def test_the_gain_by_compiling(milliseconds: float, expected: str) -> None:
    eager = ROW | {"contender": "bare loop"}
    compiled = eager | {"contender": "bare loop, compiled", "compile_seconds": 30.0}
    (message,) = verdicts([eager, compiled | {"milliseconds": milliseconds}])
    assert message.endswith(expected)
