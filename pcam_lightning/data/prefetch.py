"""Work done in threads ahead of whoever consumes its results."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

CORES = min(4, os.cpu_count() or 1)
"""Threads that read, clean or hash pixels together; more would only wait for the disk."""


def prefetch_map(
    function: Callable[[Item], Result], items: Iterable[Item], threads: int = CORES
) -> Iterator[Result]:
    """`map(function, items)` in order, with at most two results for each thread waiting.

    So memory stays bounded however slow the consumer is. What `function` raises reaches it.
    """
    items = iter(items)
    with ThreadPoolExecutor(threads) as pool:
        pending = deque(pool.submit(function, item) for item in islice(items, 2 * threads))
        while pending:
            result = pending.popleft().result()
            pending.extend(pool.submit(function, item) for item in islice(items, 1))
            yield result
