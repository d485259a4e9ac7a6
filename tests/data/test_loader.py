"""The same batches, byte for byte, however they are stored, read, or broken off."""

import itertools
import multiprocessing
import os
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
    "chunked": {"chunks": (7, 96, 96, 3)},
    "gzip": {"chunks": (16, 96, 96, 3), "compression": "gzip"},
    "float32": {"dtype": np.float32},
    "float32 gzip": {"dtype": np.float32, "chunks": (5, 48, 48, 3), "compression": "gzip"},
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
    """The epoch of `loader` as h5py reads it row by row."""
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


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("stored", STORED)
def test_every_layout_gives_the_same_batches(roots, stored: str, cache: bool) -> None:
    assert_equal(list(loader(roots[stored], cache=cache)), by_hand(roots["contiguous"]))


@pytest.mark.parametrize(
    ("stored", "cache"), [("contiguous", True), ("float32", True), ("gzip", False)]
)
def test_workers_give_the_same_batches_in_the_same_order(roots, stored: str, cache: bool) -> None:
    batches = loader(roots[stored], cache=cache, num_workers=2)
    assert_equal(list(batches), by_hand(roots["contiguous"]))
    assert_equal(list(batches), by_hand(roots["contiguous"]))  # by the same workers


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("read", [0, 1, 4, 6])
def test_a_loader_goes_on_where_another_one_stopped(roots, num_workers: int, read: int) -> None:
    stopped = loader(roots["contiguous"], num_workers=num_workers)
    before = list(itertools.islice(iter(stopped), read))
    state = stopped.state_dict()
    going_on = loader(roots["gzip"], num_workers=num_workers)
    going_on.load_state_dict(state)
    after = list(going_on)
    if read == 6:  # the epoch was over, and the next one begins
        before = []
    assert_equal(before + after, by_hand(roots["contiguous"]))
    assert_equal(list(going_on), by_hand(roots["contiguous"]))  # whole again
    assert going_on.state_dict() == {"delivered": 0}


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


def test_memory_does_not_grow_with_the_data_set(tmp_path: Path) -> None:
    import subprocess
    import sys

    program = (
        "import pathlib, sys\n"
        "from pcam_lightning.data import PCamDataModule\n"
        "def private():\n"
        "    lines = pathlib.Path('/proc/self/status').read_text().splitlines()\n"
        "    return next(int(line.split()[1]) for line in lines if line.startswith('RssAnon'))\n"
        "module = PCamDataModule(sys.argv[1], batch_size=32)\n"
        "module.setup()\n"
        "peak = 0\n"
        "start = private()\n"
        "for epoch in range(int(sys.argv[2])):\n"
        "    for batch in module.train_dataloader(): peak = max(peak, private())\n"
        "print(peak - start)\n"
    )
    if not Path("/proc/self/status").exists():
        pytest.skip("Linux counts pages")
    peaks = []
    for rows, epochs in ((256, 16), (4096, 1)):  # 7 and 113 MB, 128 batches of each
        root = tmp_path / str(rows)
        for split in SPLITS:
            write_split(root, split, *random_split(rows if split == "train" else 8))
        done = subprocess.run(
            [sys.executable, "-c", program, str(root), str(epochs)],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=True,
        )
        peaks.append(1024 * int(done.stdout))
    assert peaks[1] - peaks[0] < 4096 * 96 * 96 * 3 / 4, peaks


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("device_resident", [True, False])
def test_a_gpu_sees_the_same_batches(roots, device_resident: bool) -> None:
    from lightning import LightningModule, Trainer

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


def test_after_a_fit_no_worker_is_left_and_nobody_waits_for_one(pcam_root: Path) -> None:
    datamodule = PCamDataModule(pcam_root, batch_size=8, num_workers=2)
    trainer = Trainer(
        max_epochs=1,
        limit_train_batches=2,  # in mid-epoch, where workers still have something to do
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


@pytest.fixture
def shared_memory(tmp_path: Path, monkeypatch):
    """Set how many bytes of shared memory the machine has: (total, free)."""

    def have(total: int, free: int) -> None:
        monkeypatch.setattr(loader_module, "SHARED_MEMORY", tmp_path)
        usage = SimpleNamespace(total=total, used=total - free, free=free)
        monkeypatch.setattr(loader_module.shutil, "disk_usage", lambda _: usage)

    return have


BYTES = 8 * (96 * 96 * 3 + 2 * 8)  # a batch of 8 patches


# Each worker makes two batches ahead, and one is worked on, by training and by validation.
@pytest.mark.parametrize(
    ("workers", "total", "free", "fits"),
    [
        (4, 16_000_000, 16_000_000, True),
        (4, 16_000_000, 18 * BYTES, True),
        (4, 16_000_000, 18 * BYTES - 1, False),
        (1, 64_000, 64_000, False),
        (0, 64_000, 0, True),
        (4, 0, 0, True),  # without a limit
    ],
)
def test_workers_start_only_where_their_batches_fit(
    roots, shared_memory, workers: int, total: int, free: int, fits: bool
) -> None:
    shared_memory(total, free)
    datamodule = PCamDataModule(roots["contiguous"], batch_size=8, num_workers=workers)
    datamodule.setup()
    if fits:
        assert len(datamodule.train_dataloader()) == 6
    else:
        with pytest.raises(InputError, match=f"data.num_workers={workers}") as caught:
            datamodule.val_dataloader()
        assert len(str(caught.value).splitlines()) == 1


def test_the_ranks_of_a_machine_share_its_memory(shared_memory) -> None:
    shared_memory(10**9, 1000)
    check_shared_memory(2, 100, ranks=1)
    with pytest.raises(InputError, match=r"at most data\.num_workers=0"):
        check_shared_memory(2, 100, ranks=2)


def test_a_machine_without_such_memory_is_left_alone(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(loader_module, "SHARED_MEMORY", tmp_path / "none")
    check_shared_memory(64, 10**12)
