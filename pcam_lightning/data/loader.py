"""Batches of a data set in a sampler's order, ready before they are asked for."""

import signal
import time
from collections.abc import Iterator
from itertools import islice

import numpy as np
from torch.utils.data import DataLoader, Sampler

from pcam_lightning.data.ahead import computed_ahead
from pcam_lightning.data.dataset import Batch, PatchDataset, ResidentDataset

SECONDS_AFTER_SIGTERM = 25
"""How long a worker goes on; Slurm kills whoever is left after 30 seconds."""


class BatchLoader:
    """Iterating runs through one epoch; Lightning takes it like a DataLoader.

    Batches and their order are the same however they are read. A position in mid-epoch can be
    saved with `state_dict` and taken up by another loader with `load_state_dict`.

    Args:
        dataset: hands out whole batches.
        sampler: which rows each batch of the epoch has.
        num_workers: 0 gathers batches in this process: from mapped files by all of torch's
            threads at the moment they are needed, since on a CPU any other moment would take the
            same cores from training; ahead in a thread where a GPU waits or files are decoded.
            More start processes, which share the decoding.
        pin_memory: put batches where a GPU can copy them from while it computes.
    """

    batch_sampler = None  # Lightning looks for it where there is a sampler

    def __init__(
        self,
        dataset: PatchDataset | ResidentDataset,
        sampler: Sampler[np.ndarray],
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        self.sampler = sampler  # Lightning calls its set_epoch
        self._dataset = dataset
        self.num_workers, self.pin_memory = num_workers, pin_memory
        self._workers: DataLoader[Batch] | None = None
        self._delivered = self._skip = 0
        self.waited = 0.0
        """Seconds, over all epochs, that whoever asked for a batch has waited for it."""

    def __len__(self) -> int:
        return len(self.sampler)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Batch]:
        # As a generator, so that nothing starts before Lightning has set the epoch.
        skip, self._skip = self._skip, 0
        self._delivered = skip
        batches = iter(self._batches(skip))
        while True:
            start = time.perf_counter()
            batch = next(batches, None)
            self.waited += time.perf_counter() - start
            if batch is None:
                return
            self._delivered += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """How many batches of the epoch have been handed out; 0 at its end."""
        return {"delivered": self._delivered % max(1, len(self))}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Make the next iteration go on behind the batches of `state`."""
        self._skip = state["delivered"]

    def close(self) -> None:
        """Stop the worker processes; iterating again starts others.

        The garbage collector ends the queues by which torch (2.14) tells workers to stop before it
        ends their iterator, which then waits 40 s for two workers.
        """
        iterator = getattr(self._workers, "_iterator", None)
        if iterator is not None:
            iterator._shutdown_workers()
        self._workers = None

    def _batches(self, skip: int) -> Iterator[Batch]:
        indices = islice(self.sampler, skip, None)
        if isinstance(self._dataset, ResidentDataset):
            return map(self._dataset.__getitem__, indices)
        if not self.num_workers and not self.pin_memory and self._dataset.is_mapped:
            return map(self._dataset.__getitem__, indices)
        if not self.num_workers:
            return computed_ahead(self._fetch, indices, threads=1)
        if self._workers is None:
            self._workers = DataLoader(
                self._dataset,
                batch_size=None,  # the data set hands out whole batches; the sampler says which
                sampler=_Rest(self.sampler),
                num_workers=self.num_workers,
                persistent_workers=True,
                pin_memory=self.pin_memory,
                worker_init_fn=_outlive_signals,
            )
        self._workers.sampler.skip = skip  # type: ignore[union-attr]
        return iter(self._workers)

    def _fetch(self, index: np.ndarray) -> Batch:
        batch = self._dataset[index]
        return Batch(*(part.pin_memory() for part in batch)) if self.pin_memory else batch


def _outlive_signals(worker: int) -> None:
    # They go to the whole group of processes, and the training process answers: it finishes its
    # step, for which it needs its workers. SIGTERM is also how multiprocessing ends workers that
    # hang, so it ends them a little later.
    for number in (signal.SIGINT, signal.SIGUSR2, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(SECONDS_AFTER_SIGTERM))


class _Rest(Sampler[np.ndarray]):
    """What a sampler gives after its first `skip` batches."""

    def __init__(self, sampler: Sampler[np.ndarray]) -> None:
        self.sampler, self.skip = sampler, 0

    def __iter__(self) -> Iterator[np.ndarray]:
        return islice(iter(self.sampler), self.skip, None)
