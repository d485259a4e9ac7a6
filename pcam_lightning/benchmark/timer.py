"""Speeds of several contenders, measured in turn."""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from pcam_lightning.benchmark.memory import is_out_of_memory

STEADY = 1.05
"""A window at most this many times as fast as the one before it ends the warm-up."""
WARM_UPS = 10
"""Windows after which it ends anyway."""


class Sample(NamedTuple):
    """A piece of work that is done."""

    patches: int
    waiting: float = 0.0
    """Seconds of it that were spent waiting for data, NaN where that is not known."""
    steps: int = 1
    """How many steps it was."""
    aside: float = 0.0
    """Seconds spent meanwhile on what is not to be measured."""


Implementation = Callable[[], Iterator[Sample]]
"""Starts over and yields for each piece of work done, such as a step or an epoch."""


class Window(NamedTuple):
    """What was measured in one go."""

    speed: float
    """Patches per second."""
    milliseconds: float
    """Of one step."""
    waiting: float
    """Share of the time that was spent waiting for data, in [0, 1], or NaN."""


def measure(
    contenders: Mapping[str, Implementation],
    repeats: int,
    seconds: float,
    synchronize: Callable[[], None] = lambda: None,
) -> dict[str, list[Window]]:
    """Measure each contender `repeats` times for at least `seconds`, in turn, so that a machine
    whose speed drifts slows them all alike.

    Each is warmed up first until it is steady (files opened, pages mapped, workers started,
    kernels chosen), keeps its place between rounds, and starts over when it is exhausted, inside
    the measurement.

    Args:
        contenders: by name.
        repeats: at least 1.
        seconds: of each window.
        synchronize: waits for what a device has still to do; called at both ends of a window.

    Returns:
        The windows of each contender; none for one that memory did not suffice for.
    """
    running = {name: _endless(contender) for name, contender in contenders.items()}
    windows: dict[str, list[Window]] = {name: [] for name in contenders}

    def window(name: str) -> Window:
        return _measure(running[name], seconds, synchronize)

    for name in contenders:
        try:
            before = window(name)
            for _ in range(WARM_UPS):
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
    """Median, lowest and highest speed, and the medians of the rest; None where nothing ran."""
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
    """The median over rounds of each contender's speed as a multiple of the first one's.

    Within a round the machine has changed less than between rounds. None where either did not run.
    """
    first = next(iter(windows.values()))
    return [
        float(np.median([one.speed / other.speed for one, other in zip(each, first, strict=True)]))
        if each and first
        else None
        for each in windows.values()
    ]


def _endless(contender: Implementation) -> Iterator[Sample]:
    while True:
        yield from contender()


def _measure(work: Iterator[Sample], seconds: float, synchronize: Callable[[], None]) -> Window:
    synchronize()
    done, start = [], time.perf_counter()
    while time.perf_counter() - start < seconds:
        done.append(next(work))
    synchronize()
    elapsed = time.perf_counter() - start - sum(piece.aside for piece in done)
    patches, steps = sum(piece.patches for piece in done), sum(piece.steps for piece in done)
    waiting = sum(piece.waiting for piece in done)
    return Window(patches / elapsed, 1e3 * elapsed / steps, waiting / elapsed)
