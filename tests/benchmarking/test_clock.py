import time
from collections.abc import Iterator

import pytest

from pcam_lightning.benchmarking.clock import of_first, patches_per_second, spread


def test_speed_is_patches_over_seconds_and_contenders_start_over() -> None:
    begun = []

    def steady() -> Iterator[int]:
        begun.append("steady")
        for _ in range(5):
            time.sleep(0.01)
            yield 100

    def slower() -> Iterator[int]:
        while True:
            time.sleep(0.03)
            yield 100

    speeds = patches_per_second({"steady": steady, "slower": slower}, repeats=3, seconds=0.3)
    assert [len(measured) for measured in speeds.values()] == [3, 3]
    # Sleeping takes at least as long as asked for; how much longer is the machine's affair.
    assert max(speeds["steady"]) <= 100 / 0.01
    assert max(speeds["slower"]) <= 100 / 0.03
    assert len(begun) > 3


def test_spread() -> None:
    assert spread([3.0, 1.0, 10.0]) == pytest.approx({"median": 3, "low": 1, "high": 10})


def test_contenders_are_compared_within_a_round() -> None:
    speeds = {"first": [10.0, 100.0, 40.0], "second": [5.0, 80.0, 36.0]}
    assert of_first(speeds) == pytest.approx([1, 0.8])
