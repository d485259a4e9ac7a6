"""Batches are the same bytes for every storage, number of workers and resume position."""

import itertools
import multiprocessing
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch
from lightning import Trainer
from pcam_files import SPLITS, random_split, write_split

from pcam_lightning.data import Batch, PCamDataModule
from pcam_lightning.data import loader as loader_module
from pcam_lightning.data.dataset import PatchDataset, ResidentDataset
from pcam_lightning.data.loader import BatchLoader, check_shared_memory
from pcam_lightning.data.sampler import EpochBatches
from pcam_lightning.engine.module import PCamClassifier
from pcam_lightning.errors import InputError
from pcam_lightning.models import MLP

STORED = {
    "contiguous": {},
    "gzip": {"chunks": (16, 96, 96, 3), "compression": "gzip", "compression_opts": 1},
    "float32": {"dtype": np.float32},
}


def loader(root: Path, **arguments) -> BatchLoader:
    datamodule = PCamDataModule(root, batch_size=8, **arguments)
    datamodule.setup()
    loader = datamodule.train_dataloader()
    loader.sampler.set_epoch(3)  # type: ignore[attr-defined]
    return loader


def assert_equal(some: list[Batch], others: list[Batch]) -> None:
    assert len(some) == len(others)
    for mine, theirs in zip(some, others, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


def by_hand(root: Path) -> list[Batch]:
    """Return the epoch of `loader`, read by h5py without the package's readers."""
    stem = f"{root}/camelyonpatch_level_2_split_train"
    with h5py.File(f"{stem}_x.h5") as x, h5py.File(f"{stem}_y.h5") as y:
        images, labels = np.asarray(x["x"]), np.asarray(y["y"]).reshape(-1).astype(np.int64)
    sampler = EpochBatches(labels, 8)
    sampler.set_epoch(3)
    return [
        Batch(*map(torch.from_numpy, (images[rows].astype(np.uint8), labels[rows], rows)))
        for rows in sampler
    ]


@pytest.fixture(scope="module")
def roots(tmp_path_factory) -> dict[str, Path]:
    """One data set, stored in several ways."""
    folder = tmp_path_factory.mktemp("stored")
    for name, layout in STORED.items():
        for seed, split in enumerate(SPLITS):
            write_split(folder / name, split, *random_split(48, seed), **layout)
    return {name: folder / name for name in STORED}


@pytest.mark.parametrize(
    ("stored", "cache", "num_workers"),
    [
        ("contiguous", True, 0),
        ("float32", True, 0),
        ("gzip", False, 0),
        ("contiguous", True, 2),
        ("gzip", False, 2),
    ],
)
def test_batches_do_not_depend_on_storage_and_workers(
    roots, stored: str, cache: bool, num_workers: int
) -> None:
    batches = loader(roots[stored], cache=cache, num_workers=num_workers)
    assert_equal(list(batches), by_hand(roots["contiguous"]))
    assert_equal(list(batches), by_hand(roots["contiguous"]))  # by the same workers
    batches.close()


@pytest.mark.parametrize(
    ("num_workers", "position"), [(0, 0), (0, 1), (0, 4), (0, 6), (2, 4), (2, 6)]
)
def test_another_loader_continues_from_a_saved_position(
    roots, num_workers: int, position: int
) -> None:
    first = loader(roots["contiguous"], num_workers=num_workers)
    before = list(itertools.islice(iter(first), position))
    state = first.state_dict()
    first.close()
    second = loader(roots["gzip"], num_workers=num_workers)
    second.load_state_dict(state)
    after = list(second)
    if position == 6:  # the epoch was over, and the next one begins
        before = []
    assert_equal(before + after, by_hand(roots["contiguous"]))
    assert_equal(list(second), by_hand(roots["contiguous"]))  # a full epoch again
    assert second.state_dict() == {"delivered": 0}
    second.close()


def test_a_resident_split_gives_the_same_batches(roots) -> None:
    datamodule = PCamDataModule(roots["contiguous"], filter="blank")
    datamodule.setup()
    train = datamodule.datasets["train"]
    some = PatchDataset(train.patches, train.labels, np.arange(1, 48, 2))
    resident = ResidentDataset(some, torch.device("cpu"))
    assert len(resident) == 24
    for index in (np.array([3, 0, 23]), np.array([5])):
        assert_equal([resident[index]], [some[index]])
    sampler = EpochBatches(some.labels, 5)
    assert_equal(list(BatchLoader(resident, sampler)), list(BatchLoader(some, sampler)))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux counts pages")
def test_memory_does_not_grow_with_the_data_set(tmp_path: Path) -> None:
    def private_bytes() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

    rows = 2048  # 57 MB
    for split in SPLITS:
        write_split(tmp_path, split, *random_split(rows if split == "train" else 8))
    batches = iter(loader(tmp_path))
    for _ in range(8):
        next(batches)
    before = private_bytes()
    peak = max(private_bytes() for _ in batches)
    assert peak - before < rows * 96 * 96 * 3 / 4


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("device_resident", [True, False])
def test_a_gpu_sees_the_same_batches(roots, device_resident: bool) -> None:
    from lightning import LightningModule

    seen: list[Batch] = []

    class Watch(LightningModule):
        def training_step(self, batch: Batch) -> None:
            assert batch.image.is_cuda
            seen.append(Batch(*(part.cpu() for part in batch)))

        def configure_optimizers(self) -> None:
            return None

    arguments = {"batch_size": 8, "device_resident": device_resident}
    trainer = Trainer(
        max_epochs=1, accelerator="gpu", devices=1, logger=False, enable_checkpointing=False
    )
    trainer.fit(Watch(), datamodule=PCamDataModule(roots["contiguous"], **arguments))
    expected = PCamDataModule(roots["contiguous"], batch_size=8)
    expected.setup()
    assert_equal(seen, list(expected.train_dataloader()))


def test_no_worker_survives_a_fit(pcam_root: Path) -> None:
    datamodule = PCamDataModule(pcam_root, batch_size=8, num_workers=2)
    trainer = Trainer(
        max_epochs=1,
        limit_train_batches=2,  # stops within an epoch, while workers are busy
        limit_val_batches=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    module = PCamClassifier(MLP((4,)), optimizer=lambda p: torch.optim.SGD(p, lr=0.1))
    trainer.fit(module, datamodule=datamodule)
    assert multiprocessing.active_children() == []
    # It can be iterated again.
    loader = datamodule.train_dataloader()
    assert len(next(iter(loader)).row) == 8
    loader.close()
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGHUP, signal.SIGINT])
def test_a_signal_does_not_end_a_worker_that_is_starting(roots, number: int) -> None:
    """Slurm and terminals signal the whole group of processes, new workers among them."""
    starting = [True]

    def signal_child() -> None:
        if starting:
            os.kill(os.getpid(), number)

    os.register_at_fork(after_in_child=signal_child)
    before = signal.signal(number, lambda *_: os._exit(3))  # inherited by a fork
    try:
        workers = loader(roots["contiguous"], num_workers=2)
        assert_equal(list(workers), by_hand(roots["contiguous"]))
        workers.close()
    finally:
        starting.clear()
        signal.signal(number, before)


@pytest.fixture
def shared_memory(tmp_path: Path, monkeypatch):
    """Return a function that sets the machine's shared memory: (total, free) bytes."""

    def set_memory(total: int, free: int) -> None:
        monkeypatch.setattr(loader_module, "SHARED_MEMORY", tmp_path)
        usage = SimpleNamespace(total=total, used=total - free, free=free)
        monkeypatch.setattr(loader_module.shutil, "disk_usage", lambda _: usage)

    return set_memory


BYTES = 8 * (96 * 96 * 3 + 2 * 8)  # a batch of 8 patches


# Each worker prepares two batches and one is in use, by training and by validation.
@pytest.mark.parametrize(
    ("workers", "total", "free", "fits"),
    [
        (4, 16_000_000, 18 * BYTES, True),
        (4, 16_000_000, 18 * BYTES - 1, False),
        (1, 64_000, 64_000, False),
        (0, 64_000, 0, True),
        (4, 0, 0, True),  # no limit
    ],
)
def test_batches_of_workers_must_fit_into_shared_memory(
    shared_memory, workers: int, total: int, free: int, fits: bool
) -> None:
    shared_memory(total, free)
    if fits:
        check_shared_memory(workers, BYTES)
    else:
        with pytest.raises(InputError, match=f"data.num_workers={workers}") as caught:
            check_shared_memory(workers, BYTES)
        assert len(str(caught.value).splitlines()) == 1


def test_a_loader_checks_shared_memory(roots, shared_memory) -> None:
    datamodule = PCamDataModule(roots["contiguous"], batch_size=8, num_workers=4)
    datamodule.setup()
    shared_memory(16_000_000, 18 * BYTES - 1)
    with pytest.raises(InputError, match=r"data\.num_workers=4"):
        datamodule.val_dataloader()


def test_the_ranks_of_a_machine_share_its_memory(shared_memory) -> None:
    shared_memory(10**9, 1000)
    check_shared_memory(2, 100, ranks=1)
    with pytest.raises(InputError, match=r"at most data\.num_workers=0"):
        check_shared_memory(2, 100, ranks=2)


def test_a_machine_without_shared_memory_is_not_checked(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(loader_module, "SHARED_MEMORY", tmp_path / "none")
    check_shared_memory(64, 10**12)
