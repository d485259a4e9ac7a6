"""Map whose results are computed in advance by threads or processes."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

CORES = min(4, os.cpu_count() or 1)
"""Number of threads that read, clean or hash pixels; more would only wait for the disk."""


def prefetch_map(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    threads: int = CORES,
    executor: Callable[[int], Executor] = ThreadPoolExecutor,
) -> Iterator[Result]:
    """Yield the results of `map(function, items)` in order, computed in advance.

    At most two results per thread wait, so memory stays bounded for a slow consumer, which also
    receives the exceptions of `function`.

    Args:
        function: called in the threads or processes of `executor`.
        items: arguments.
        threads: number of threads or processes.
        executor: makes them from their number.
    """
    items = iter(items)
    with executor(threads) as pool:
        pending = deque(pool.submit(function, item) for item in islice(items, 2 * threads))
        while pending:
            result = pending.popleft().result()
            pending.extend(pool.submit(function, item) for item in islice(items, 1))
            yield result
