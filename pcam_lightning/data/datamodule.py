"""The H5 splits as a LightningDataModule."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from lightning import LightningDataModule
from torch.utils.data import DataLoader, Sampler

from pcam_lightning.data.cache import PatchFile, patch_file
from pcam_lightning.data.clean import Cleaning
from pcam_lightning.data.dataset import Batch, PatchDataset
from pcam_lightning.data.files import SPLITS, SplitFiles, check_split, read_labels
from pcam_lightning.data.sampler import ORDERS, EpochBatches, SequentialBatches
from pcam_lightning.errors import InputError


class PCamDataModule(LightningDataModule):
    """PatchCamelyon batches for `fit`, `validate` and `test`.

    Args:
        root: folder with the six official H5 files, any HDF5 layout, uint8 or float.
        batch_size: patches in a batch, on each rank.
        num_workers: loader processes; 0 reads in the training process, which keeps up with it.
        sampler: "weighted" draws the classes equally often, "shuffle" draws every row once, "fixed"
            repeats one shuffled order in every epoch.
        filter: "blank" leaves black (mean <= 1) and white (mean >= 254) patches out of training.
        cache_dir: where uint8 copies of other file layouts go; None means beside the files.
        seed: decides, with the epoch, the order of the training rows.

    Raises:
        InputError: in `setup`, where the files or the arguments cannot be used.
    """

    def __init__(
        self,
        root: str | Path,
        batch_size: int = 128,
        num_workers: int = 0,
        sampler: str = "weighted",
        filter: str = "none",
        cache_dir: str | Path | None = None,
        seed: int = 42,
    ) -> None:
        super().__init__()
        if sampler not in ORDERS:
            raise InputError(f"sampler={sampler}: expected one of {', '.join(ORDERS)}")
        if filter not in ("none", "blank"):
            raise InputError(f"filter={filter}: expected none or blank")
        self.root = Path(root)
        self.batch_size, self.num_workers = batch_size, num_workers
        self.sampler, self.filter, self.seed = sampler, filter, seed
        self.cache_dir = Path(cache_dir) if cache_dir else None
        self.datasets: dict[str, PatchDataset] = {}
        self.dropped_blank = 0

    def files(self, split: str) -> SplitFiles:
        """The files of "train", "valid" or "test"."""
        return SplitFiles(self.root, split)

    def setup(self, stage: str | None = None) -> None:
        """Map all splits, converting them first where their layout needs it. Same on every rank."""
        if self.datasets:
            return
        for split in SPLITS:
            check_split(self.files(split))
        for split in SPLITS:
            patches = patch_file(self.files(split), self.cache_dir)
            rows = None
            if split == "train" and self.filter == "blank":
                rows = np.flatnonzero(~blank_rows(patches))
                self.dropped_blank = patches.rows - len(rows)
            self.datasets[split] = PatchDataset(patches, read_labels(self.files(split)), rows)

    def cleaning(self) -> dict[str, Cleaning]:
        """What was changed on the way to uint8, by split."""
        return {split: dataset.patches.cleaning for split, dataset in self.datasets.items()}

    def train_dataloader(self) -> DataLoader[Batch]:
        dataset, (rank, world_size) = self.datasets["train"], self._ranks()
        batches = EpochBatches(
            dataset.labels, self.batch_size, self.sampler, self.seed, rank, world_size
        )
        if not len(batches):
            raise InputError(
                f"data.batch_size={self.batch_size} on {world_size} rank(s): expected no more than "
                f"the {len(dataset)} training patches"
            )
        return self._loader(dataset, batches)

    def val_dataloader(self) -> DataLoader[Batch]:
        return self._evaluation_loader("valid")

    def test_dataloader(self) -> DataLoader[Batch]:
        return self._evaluation_loader("test")

    def _evaluation_loader(self, split: str) -> DataLoader[Batch]:
        dataset = self.datasets[split]
        return self._loader(
            dataset, SequentialBatches(len(dataset), self.batch_size, *self._ranks())
        )

    def _ranks(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _loader(self, dataset: PatchDataset, batches: Sampler[list[int]]) -> DataLoader[Batch]:
        on_gpu = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return DataLoader(
            dataset,
            batch_size=None,  # the data set hands out whole batches; the sampler says which
            sampler=batches,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=on_gpu,
        )


def blank_rows(patches: PatchFile) -> np.ndarray:
    """Which patches are black (mean <= 1) or white (mean >= 254). bool [N]."""
    mapped = patches.map()
    means = np.concatenate([chunk.mean(axis=(1, 2, 3)) for chunk in _chunks(mapped)])
    return (means <= 1) | (means >= 254)


def _chunks(array: np.ndarray, rows: int = 1024) -> Iterable[np.ndarray]:
    return (array[start : start + rows] for start in range(0, len(array), rows))
