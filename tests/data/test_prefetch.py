import threading
import time

import pytest

from pcam_lightning.data.prefetch import prefetch_map


def test_results_come_in_order_however_long_each_takes() -> None:
    def slow_at_first(number: int) -> int:
        time.sleep(0.02 if number == 0 else 0)
        return number * number

    assert list(prefetch_map(slow_at_first, range(20), threads=3)) == [n * n for n in range(20)]
    assert list(prefetch_map(slow_at_first, [], threads=3)) == []


def test_only_a_few_results_wait_for_a_slow_consumer() -> None:
    begun = []
    results = prefetch_map(begun.append, range(100), threads=2)
    next(results)
    time.sleep(0.2)
    assert len(begun) <= 1 + 2 * 2
    results.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if "ThreadPool" in thread.name]


def test_an_error_reaches_the_consumer_in_its_place() -> None:
    results = prefetch_map(lambda number: 1 / (2 - number), range(5), threads=2)
    assert [next(results), next(results)] == [0.5, 1.0]
    with pytest.raises(ZeroDivisionError):
        next(results)
