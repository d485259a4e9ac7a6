"""Loader of batches in a sampler's order, by threads or worker processes."""

import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import numpy as np
from torch.utils.data import DataLoader, Sampler

from pcam_lightning.data.dataset import Batch, PatchDataset, ResidentDataset
from pcam_lightning.data.prefetch import prefetch_map
from pcam_lightning.errors import InputError

STOP_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGUSR2, signal.SIGHUP}
"""Signals that ask a run to stop."""
SECONDS_AFTER_SIGTERM = 25
"""Seconds that a worker continues; Slurm kills remaining processes after 30 seconds."""

PREFETCH = 2
"""Batches that each worker prepares in advance."""
LOADERS = 2
"""Loaders that hold batches at once: validation may start while training's workers wait."""
SHARED_MEMORY = Path("/dev/shm")
"""File system through which workers pass on their batches."""


def check_shared_memory(num_workers: int, batch_bytes: int, ranks: int = 1) -> None:
    """Check that the prefetched batches of all workers fit into the machine's shared memory.

    Workers crash or hang when it is full. Containers often have 64 MB of it.

    Args:
        num_workers: workers of each rank.
        batch_bytes: bytes of a batch.
        ranks: ranks on this machine.

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
            f"data.num_workers={num_workers}: their batches need {needed / 1e6:.0f} MB of shared "
            f"memory and {usage.free / 1e6:.0f} MB are free in {SHARED_MEMORY}; expected at most "
            f"data.num_workers={fitting}, a smaller data.batch_size, or a larger {SHARED_MEMORY} "
            "(docker run --shm-size)"
        )


class BatchLoader:
    """Iterable over the batches of one epoch, used by Lightning like a DataLoader.

    Batches and their order do not depend on how they are read. `state_dict` saves a position
    within an epoch; `load_state_dict` of another loader continues from it.

    Args:
        dataset: returns whole batches.
        sampler: yields the rows of each batch of the epoch.
        num_workers: number of worker processes. With 0, this process gathers the batches: mapped
            files on demand with all of torch's threads, since prefetching on a CPU would compete
            with training; for a GPU, or if files are decoded, in a thread in advance.
        pin_memory: copy batches to page-locked memory, for asynchronous transfers to a GPU.
    """

    batch_sampler = None  # Lightning reads it from every loader with a sampler

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
        """Seconds spent waiting for batches, over all epochs."""

    def __len__(self) -> int:
        return len(self.sampler)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Batch]:
        # A generator, so that nothing starts before Lightning has set the epoch.
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
        """Return the number of batches of the epoch already yielded; 0 at its end."""
        return {"delivered": self._delivered % max(1, len(self))}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Make the next iteration continue after the batches of `state`."""
        self._skip = state["delivered"]

    def close(self) -> None:
        """Stop the worker processes; the next iteration starts new ones."""
        # Private in torch 2.14, which has no public way. The garbage collector would close the
        # queues to the workers before their iterator, which then waits 40 s for two workers.
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
                batch_size=None,  # the sampler yields the rows of whole batches
                sampler=_Rest(self.sampler),
                num_workers=self.num_workers,
                prefetch_factor=PREFETCH,
                persistent_workers=True,
                pin_memory=self.pin_memory,
                worker_init_fn=_outlive_signals,
            )
        self._workers.sampler.skip = skip  # type: ignore[union-attr]
        with _signals_blocked():
            return iter(self._workers)

    def _fetch(self, index: np.ndarray) -> Batch:
        batch = self._dataset[index]
        return Batch(*(part.pin_memory() for part in batch)) if self.pin_memory else batch


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Hold signals back while workers start: a new worker would handle one as its parent does."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _outlive_signals(worker: int) -> None:
    # Signals reach the whole process group. The training process handles them: it finishes its
    # step, which needs the workers. multiprocessing ends hanging workers with SIGTERM, so this
    # signal still ends them, a little later.
    for number in STOP_SIGNALS - {signal.SIGTERM}:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(SECONDS_AFTER_SIGTERM))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


class _Rest(Sampler[np.ndarray]):
    """The batches of a sampler after its first `skip`."""

    def __init__(self, sampler: Sampler[np.ndarray]) -> None:
        self.sampler, self.skip = sampler, 0

    def __iter__(self) -> Iterator[np.ndarray]:
        return islice(iter(self.sampler), self.skip, None)
