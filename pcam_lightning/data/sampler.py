"""Order of the training rows: a pure function of the seed and the epoch."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from pcam_lightning.seeds import derive_seed


def shuffled_order(labels: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """Return every row once, in random order. int64 [N]."""
    return _generator(seed, epoch).permutation(len(labels))


def balanced_order(labels: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """Return N draws of N rows, equally many from each class. int64 [N].

    The expected counts equal those of draws with replacement by inverse class frequency. But no
    row is drawn twice before every row of its class was drawn once, so with equally large classes
    each row is drawn exactly once.
    """
    generator = _generator(seed, epoch)
    classes = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    shares = np.full(len(classes), len(labels) // len(classes))
    shares[: len(labels) % len(classes)] += 1
    draws = [
        np.concatenate([generator.permutation(rows) for _ in range(-(-share // len(rows)))])[:share]
        for rows, share in zip(classes, shares, strict=True)
    ]
    return generator.permutation(np.concatenate(draws))


def fixed_order(labels: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """Return the shuffled order of epoch 0, for every epoch. int64 [N]."""
    return shuffled_order(labels, seed, 0)


ORDERS = {"balanced": balanced_order, "shuffle": shuffled_order, "fixed": fixed_order}


class EpochBatches(Sampler[np.ndarray]):
    """Batches of training rows for one rank.

    With B rows on each of W ranks, global batch b of an epoch is the slice
    [b * B * W, (b + 1) * B * W) of the epoch's order, and rank r takes its r-th run of B rows.
    Each rank computes the same order, without communication. The rows of an incomplete last global
    batch are left out of that epoch; they differ from epoch to epoch.
    """

    def __init__(
        self,
        labels: np.ndarray,
        batch_size: int,
        order: str = "balanced",
        seed: int = 42,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.labels, self.batch_size, self.order = labels, batch_size, ORDERS[order]
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch; Lightning calls this at the start of every epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.labels) // (self.batch_size * self.world_size)

    def __iter__(self) -> Iterator[np.ndarray]:
        order = self.order(self.labels, self.seed, self.epoch)
        shape = (len(self), self.world_size, self.batch_size)
        yield from order[: int(np.prod(shape))].reshape(shape)[:, self.rank]


class SequentialBatches(Sampler[np.ndarray]):
    """Batches of all rows 0..length-1 in order; rank r of W takes every W-th row from row r on.

    All ranks get equally many rows, so the last rows may repeat the first ones; code that
    gathers the ranks' results must drop repeated rows.
    """

    def __init__(self, length: int, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        self.batch_size = batch_size
        padded = -(-length // world_size) * world_size
        self.rows = (np.arange(padded) % length)[rank::world_size]

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch_size)

    def __iter__(self) -> Iterator[np.ndarray]:
        for start in range(0, len(self.rows), self.batch_size):
            yield self.rows[start : start + self.batch_size]


def _generator(seed: int, epoch: int) -> np.random.Generator:
    return np.random.default_rng(derive_seed(seed, "order", epoch))
