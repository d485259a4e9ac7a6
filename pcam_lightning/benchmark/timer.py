"""Timer that measures the speeds of several implementations in turn."""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from pcam_lightning.benchmark.memory import is_out_of_memory

STEADY = 1.05
"""Warm-up ends when a window is less than this many times as fast as the previous window."""
MAX_WARM_UPS = 10
"""Most windows of a warm-up after the first."""


class Sample(NamedTuple):
    """A finished piece of work."""

    patches: int
    waiting: float = 0.0
    """Seconds spent waiting for data; NaN if unknown."""
    steps: int = 1
    """Number of steps."""
    excluded: float = 0.0
    """Seconds to exclude from the measurement."""


Implementation = Callable[[], Iterator[Sample]]
"""Function that starts the work and yields a sample for each piece, such as a step or an epoch."""


class Window(NamedTuple):
    """One measurement."""

    speed: float
    """Patches per second."""
    milliseconds: float
    """Duration of one step."""
    waiting: float
    """Share of the time spent waiting for data, in [0, 1], or NaN."""


def measure(
    implementations: Mapping[str, Implementation],
    repeats: int,
    seconds: float,
    synchronize: Callable[[], None] = lambda: None,
) -> dict[str, list[Window]]:
    """Measure each implementation `repeats` times for at least `seconds`, in turn.

    Measuring in turn spreads a drift of the machine's speed over all implementations. Each warms
    up first until its speed is steady (files opened, pages mapped, workers started, kernels
    chosen). It pauses between rounds, and starts again within the measurement when it is exhausted.

    Args:
        implementations: by name.
        repeats: at least 1.
        seconds: least duration of a window.
        synchronize: waits until a device has finished; called at both ends of a window.

    Returns:
        The windows of each implementation; an empty list for one that ran out of memory.
    """
    running = {name: _endless(start) for name, start in implementations.items()}
    windows: dict[str, list[Window]] = {name: [] for name in implementations}

    def window(name: str) -> Window:
        return _measure(running[name], seconds, synchronize)

    for name in implementations:
        try:
            before = window(name)
            for _ in range(MAX_WARM_UPS):
                now = window(name)
                if now.speed < STEADY * before.speed:
                    break
                before = now
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            del running[name]
    for _ in range(repeats):
        for name in running:
            windows[name].append(window(name))
    for work in running.values():
        work.close()  # type: ignore[attr-defined]
    return windows


def spread(windows: list[Window]) -> dict[str, float | None]:
    """Return median, lowest and highest speed, and medians of the other fields.

    All are None if there are no windows.
    """
    if not windows:
        return dict.fromkeys(("median", "low", "high", "milliseconds", "waiting"))
    speed, milliseconds, waiting = np.array(windows).T
    return {
        "median": float(np.median(speed)),
        "low": float(speed.min()),
        "high": float(speed.max()),
        "milliseconds": float(np.median(milliseconds)),
        "waiting": None if np.isnan(waiting).any() else float(np.median(waiting)),
    }


def relative_speed(windows: Mapping[str, list[Window]]) -> list[float | None]:
    """Return the median over rounds of each implementation's speed divided by the first one's.

    Ratios are taken within a round, since the machine's speed drifts between rounds. A ratio is
    None if either implementation did not run.
    """
    first = next(iter(windows.values()))
    return [
        float(np.median([one.speed / other.speed for one, other in zip(each, first, strict=True)]))
        if each and first
        else None
        for each in windows.values()
    ]


def _endless(start: Implementation) -> Iterator[Sample]:
    while True:
        yield from start()


def _measure(work: Iterator[Sample], seconds: float, synchronize: Callable[[], None]) -> Window:
    synchronize()
    done, start = [], time.perf_counter()
    while time.perf_counter() - start < seconds:
        done.append(next(work))
    synchronize()
    elapsed = time.perf_counter() - start - sum(piece.excluded for piece in done)
    patches, steps = sum(piece.patches for piece in done), sum(piece.steps for piece in done)
    waiting = sum(piece.waiting for piece in done)
    return Window(patches / elapsed, 1e3 * elapsed / steps, waiting / elapsed)
