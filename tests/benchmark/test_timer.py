import time
from collections.abc import Iterator

import pytest
import torch

from pcam_lightning.benchmark.timer import Sample, Window, measure, relative_speed, spread


def test_speed_is_patches_over_seconds_and_exhausted_work_starts_again() -> None:
    starts = []

    def steady() -> Iterator[Sample]:
        starts.append("steady")
        for _ in range(5):
            time.sleep(0.01)
            yield Sample(100, waiting=0.005)

    def in_pairs() -> Iterator[Sample]:
        while True:
            time.sleep(0.03)
            yield Sample(100, steps=2)

    windows = measure({"steady": steady, "in pairs": in_pairs}, repeats=3, seconds=0.08)
    assert [len(measured) for measured in windows.values()] == [3, 3]
    # A sleep takes at least the requested time; how much longer depends on the machine.
    for window in windows["steady"]:
        assert window.speed <= 100 / 0.01 and window.milliseconds >= 10
        assert window.waiting == pytest.approx(5 / window.milliseconds)
    for window in windows["in pairs"]:
        assert window.speed <= 100 / 0.03 and window.milliseconds >= 15
        assert window.speed * window.milliseconds == pytest.approx(100 / 2 * 1e3)
    assert len(starts) > 3


def test_excluded_seconds_are_not_measured() -> None:
    def work() -> Iterator[Sample]:
        while True:
            time.sleep(0.02)
            start = time.perf_counter()
            time.sleep(0.1)
            yield Sample(1, excluded=time.perf_counter() - start)

    (window,) = measure({"": work}, repeats=1, seconds=0.05)[""]
    assert 20 <= window.milliseconds < 100


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 byte."),
    ],
)
def test_out_of_memory_leaves_no_windows_and_does_not_stop_others(error: Exception) -> None:
    def large() -> Iterator[Sample]:
        raise error
        yield

    def small() -> Iterator[Sample]:
        while True:
            yield Sample(1)

    windows = measure({"large": large, "small": small}, repeats=2, seconds=0.01)
    assert (len(windows["large"]), len(windows["small"])) == (0, 2)
    assert relative_speed(windows) == [None, None]
    assert spread(windows["large"])["median"] is None


def test_any_other_error_is_raised() -> None:
    def broken() -> Iterator[Sample]:
        raise RuntimeError("a bug")
        yield

    with pytest.raises(RuntimeError, match="a bug"):
        measure({"": broken}, repeats=1, seconds=0.01)


def test_spread_and_relative_speed_within_a_round() -> None:
    first = [Window(speed, 1.0, 0.0) for speed in (10.0, 100.0, 40.0)]
    second = [Window(5.0, 4.0, 0.5), Window(80.0, 2.0, 0.25), Window(36.0, 3.0, 0.75)]
    assert relative_speed({"first": first, "second": second}) == pytest.approx([1, 0.8])
    assert spread(second) == pytest.approx(
        {"median": 36, "low": 5, "high": 80, "milliseconds": 3, "waiting": 0.5}
    )
    assert spread([Window(1.0, 1.0, float("nan"))])["waiting"] is None
