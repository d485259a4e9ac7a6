"""Batches of a data set in a sampler's order, ready before they are asked for."""

import shutil
import signal
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from torch.utils.data import DataLoader, Sampler

from pcam_lightning.data.dataset import Batch, PatchDataset, ResidentDataset
from pcam_lightning.data.prefetch import prefetch_map
from pcam_lightning.errors import InputError

SECONDS_AFTER_SIGTERM = 25
"""How long a worker goes on; Slurm kills whoever is left after 30 seconds."""

PREFETCH = 2
"""Batches that each worker makes ahead."""
LOADERS = 2
"""Loaders that hold batches at once: training's may be stopped early, then validation's starts."""
SHARED_MEMORY = Path("/dev/shm")
"""The file system through which workers hand over their batches."""


def check_shared_memory(num_workers: int, batch_bytes: int, ranks: int = 1) -> None:
    """Check that the batches that workers make ahead fit into the machine's shared memory.

    Workers that find it full die or wait forever. Containers often have 64 MB of it.

    Args:
        num_workers: of each rank.
        batch_bytes: bytes of a batch.
        ranks: on this machine.

    Raises:
        InputError: they do not fit.
    """
    if not num_workers or not SHARED_MEMORY.is_dir():
        return
    usage = shutil.disk_usage(SHARED_MEMORY)
    # The step in progress holds one more batch.
    needed = ranks * LOADERS * (num_workers * PREFETCH + 1) * batch_bytes
    if usage.total and needed > usage.free:  # a total of 0 means no limit
        fitting = max(0, (usage.free // (ranks * LOADERS * batch_bytes) - 1) // PREFETCH)
        raise InputError(
            f"data.num_workers={num_workers}: their batches take {needed / 1e6:.0f} MB of shared "
            f"memory and {usage.free / 1e6:.0f} MB are free in {SHARED_MEMORY}; expected at most "
            f"data.num_workers={fitting}, a smaller data.batch_size, or a larger {SHARED_MEMORY} "
            "(docker run --shm-size)"
        )


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
            return prefetch_map(self._fetch, indices, threads=1)
        if self._workers is None:
            self._workers = DataLoader(
                self._dataset,
                batch_size=None,  # the data set hands out whole batches; the sampler says which
                sampler=_Rest(self.sampler),
                num_workers=self.num_workers,
                prefetch_factor=PREFETCH,
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
