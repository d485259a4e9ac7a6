"""Patches per second of several contenders, measured in turn."""

import time
from collections.abc import Callable, Iterator, Mapping

import numpy as np

Contender = Callable[[], Iterator[int]]
"""Starts over and yields, for each piece of work done, how many patches it was."""


def patches_per_second(
    contenders: Mapping[str, Contender], repeats: int, seconds: float
) -> dict[str, list[float]]:
    """Measure each contender `repeats` times for about `seconds`, in turn, so that a machine whose
    speed drifts slows them all alike.

    Each is warmed up for as long first (files opened, pages mapped, workers started), keeps its
    place between rounds, and starts over when it is exhausted, inside the measurement.
    """
    running = {name: _endless(contender) for name, contender in contenders.items()}
    for work in running.values():
        _measure(work, seconds)
    speeds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, work in running.items():
            speeds[name].append(_measure(work, seconds))
    return speeds


def spread(speeds: list[float]) -> dict[str, float]:
    """Median, lowest and highest of repeated measurements."""
    return {"median": float(np.median(speeds)), "low": min(speeds), "high": max(speeds)}


def of_first(speeds: Mapping[str, list[float]]) -> list[float]:
    """The median over rounds of each contender's speed as a multiple of the first one's.

    Within a round the machine has changed less than between rounds.
    """
    first = np.array(next(iter(speeds.values())))
    return [float(np.median(np.array(measured) / first)) for measured in speeds.values()]


def _endless(contender: Contender) -> Iterator[int]:
    while True:
        yield from contender()


def _measure(work: Iterator[int], seconds: float) -> float:
    patches, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        patches += next(work)
    return patches / elapsed
