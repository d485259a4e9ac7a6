from itertools import chain

import numpy as np
import pytest

from pcam_lightning.data.sampler import (
    EpochBatches,
    SequentialBatches,
    balanced_order,
    shuffled_order,
)

LABELS = (np.arange(1000) % 5 == 0).astype(np.int64)  # 200 tumours, 800 normal


def test_shuffled_order_has_every_row_once_and_moves_with_seed_and_epoch() -> None:
    order = shuffled_order(LABELS, seed=1, epoch=3)
    assert sorted(order) == list(range(1000))
    np.testing.assert_array_equal(order, shuffled_order(LABELS, 1, 3))
    assert (order != shuffled_order(LABELS, 1, 4)).any()
    assert (order != shuffled_order(LABELS, 2, 3)).any()


def test_balanced_order_draws_the_classes_equally_and_rows_evenly() -> None:
    order = balanced_order(LABELS, seed=1, epoch=0)
    assert len(order) == 1000 and LABELS[order].sum() == 500
    times = np.bincount(order, minlength=1000)
    assert set(times[LABELS == 1]) == {2, 3}  # 500 draws of 200 rows
    assert set(times[LABELS == 0]) == {0, 1}  # 500 draws of 800 rows


def test_balanced_order_has_the_expectation_of_inverse_frequency_weights() -> None:
    times = sum(
        np.bincount(balanced_order(LABELS, 7, epoch), minlength=1000) for epoch in range(400)
    )
    weights = np.where(LABELS == 1, 1000 / (2 * 200), 1000 / (2 * 800))
    # Standard error of a row's mean count is below 0.025.
    np.testing.assert_allclose(times / 400, weights, atol=0.125)


def test_balanced_order_of_equal_classes_shows_every_row_once() -> None:
    labels = np.arange(100) % 2
    assert sorted(balanced_order(labels, 3, 0)) == list(range(100))


def test_balanced_order_of_one_class_is_a_shuffle() -> None:
    assert sorted(balanced_order(np.ones(10, dtype=int), 3, 0)) == list(range(10))


@pytest.mark.parametrize("order", ["balanced", "shuffle"])
def test_ranks_share_the_global_batches_of_one_rank_with_larger_batches(order: str) -> None:
    alone = EpochBatches(LABELS, 24, order, seed=5)
    ranks = [EpochBatches(LABELS, 8, order, 5, rank, 3) for rank in range(3)]
    for sampler in (alone, *ranks):
        sampler.set_epoch(2)
    together = [np.concatenate(parts) for parts in zip(*ranks, strict=True)]
    np.testing.assert_array_equal(together, list(alone))
    assert {len(sampler) for sampler in (alone, *ranks)} == {41}
    if order == "shuffle":
        rows = np.concatenate(together)
        assert len(set(rows)) == len(rows) == 41 * 24


def test_epochs_differ_and_are_reproducible() -> None:
    sampler = EpochBatches(LABELS, 100)
    first = np.stack(list(sampler))
    sampler.set_epoch(1)
    assert (np.stack(list(sampler)) != first).any()
    sampler.set_epoch(0)
    np.testing.assert_array_equal(np.stack(list(sampler)), first)


@pytest.mark.parametrize(("length", "world_size"), [(20, 1), (20, 3), (2, 4)])
def test_sequential_batches_cover_every_row_with_equally_many_per_rank(
    length: int, world_size: int
) -> None:
    ranks = [list(SequentialBatches(length, 4, rank, world_size)) for rank in range(world_size)]
    rows = [[row for batch in batches for row in batch] for batches in ranks]
    assert set(chain(*rows)) == set(range(length))
    assert len({len(part) for part in rows}) == 1
    if world_size == 1:
        assert rows[0] == list(range(length))
