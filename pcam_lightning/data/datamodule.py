"""LightningDataModule of the three splits."""

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from lightning import LightningDataModule
from torch.utils.data import Sampler

from pcam_lightning.data.cache import VERSION, patch_file
from pcam_lightning.data.clean import Cleaning
from pcam_lightning.data.dataset import PatchDataset, ResidentDataset
from pcam_lightning.data.files import (
    PATCH_BYTES,
    SPLIT_FILES,
    SPLITS,
    SplitFiles,
    check_images,
    open_dataset,
    read_labels,
    recall,
    split_files,
)
from pcam_lightning.data.findings import FAULTS, KINDS, read_findings
from pcam_lightning.data.identity import file_digests, fingerprint, is_fingerprint
from pcam_lightning.data.layout import describe_missing
from pcam_lightning.data.loader import BatchLoader, check_shared_memory
from pcam_lightning.data.sampler import ORDERS, EpochBatches, SequentialBatches
from pcam_lightning.data.scale import check_scales, declared_scale
from pcam_lightning.data.slides import read_slides
from pcam_lightning.data.statistics import BLACK, WHITE, channel_sums, statistics_of
from pcam_lightning.errors import InputError

STAGES = {
    "fit": ("train", "valid"),
    "validate": ("valid",),
    "test": ("test",),
    "predict": ("test",),
    None: SPLITS,
}
"""Splits that each stage of Lightning needs."""

log = logging.getLogger(__name__)


class PCamDataModule(LightningDataModule):
    """PatchCamelyon batches for `fit`, `validate`, `test` and `predict` (the test split).

    Loaders work without a trainer, and before `setup`, too: each prepares its own split.

    Args:
        root: folder with the six H5 files, any HDF5 layout and numeric dtype, under their official
            names or those of Kaggle's copy, as they are or packed (`.h5.gz`).
        batch_size: patches in a batch, on each rank.
        num_workers: loader processes; 0 reads in the training process, which is fast enough for
            mapped files.
        sampler: "balanced" draws the classes equally often, "shuffle" draws every row once, "fixed"
            repeats one shuffled order in every epoch.
        filter: "blank" leaves black (mean <= 1) and white (mean >= 254) patches out of training.
        exclude: an audit's `findings.parquet` of the same files; patches with a finding of
            `exclude_kinds` are left out of training.
        exclude_kinds: some of `pcam_lightning.data.findings.KINDS`.
        normalize: mean and deviation for the network (see `channel_statistics`): "symmetric" maps
            0..255 to -1..1, "train" uses mean and standard deviation of the training patches,
            "auto" keeps those of the network: of its pretrained weights, else "symmetric".
        scale: scale of the pixel values: "auto" accepts splits that are clearly on 0..255; "0-255",
            "0-1", "-1-1", "0-65535" or a pair (low, high) declares another, mapped to 0..255.
        cache: convert files that cannot be mapped to uint8 copies once; if false, decode them at
            every read.
        cache_dir: folder of these uint8 copies, and of unpacked files whose folder is read-only;
            None means beside the files.
        keys: names of the HDF5 datasets of patches and labels; None finds `x` and `y`, or the only
            dataset of a file.
        device_resident: keep the splits in GPU memory: True, False, or "auto", if they take at
            most half of the free GPU memory.
        seed: determines, with the epoch, the order of the training rows.

    Raises:
        InputError: an argument is invalid or, in `setup`, the files cannot be used.
    """

    def __init__(
        self,
        root: str | Path,
        batch_size: int = 128,
        num_workers: int = 0,
        sampler: str = "balanced",
        filter: str = "none",
        exclude: str | Path | None = None,
        exclude_kinds: Sequence[str] = FAULTS,
        normalize: str = "auto",
        scale: str | Sequence[float] = "auto",
        cache: bool = True,
        cache_dir: str | Path | None = None,
        device_resident: bool | str = "auto",
        seed: int = 42,
        keys: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        choices = {
            "sampler": (sampler, tuple(ORDERS)),
            "filter": (filter, ("none", "blank")),
            "normalize": (normalize, ("auto", "symmetric", "train")),
            "device_resident": (device_resident, ("auto", True, False)),
        }
        for name, (value, valid) in choices.items():
            if value not in valid:
                raise InputError(f"{name}={value}: expected one of {', '.join(map(str, valid))}")
        if unknown := sorted(set(exclude_kinds) - set(KINDS)):
            raise InputError(f"exclude_kinds: {unknown[0]!r}; expected some of {', '.join(KINDS)}")
        if device_resident is True and num_workers:
            raise InputError(
                f"device_resident=true: batches never pass through num_workers={num_workers}; "
                "expected num_workers=0 or device_resident=auto"
            )
        self.splits = split_files(root, keys, cache_dir)
        self.root = self.splits["train"].root
        self.batch_size, self.num_workers = batch_size, num_workers
        self.sampler, self.filter, self.seed = sampler, filter, seed
        self.exclude, self.exclude_kinds = exclude, exclude_kinds
        declared_scale(scale)  # raises for an invalid value
        self.normalize, self.scale, self.cache = normalize, scale, cache
        self.device_resident = device_resident
        self.datasets: dict[str, PatchDataset] = {}
        self.dropped = {"blank": 0, "excluded": 0}
        """Number of training patches left out, by reason; a patch may count for both."""
        self._resident: dict[str, ResidentDataset] = {}
        self._loaders: list[BatchLoader] = []

    def files(self, split: str) -> SplitFiles:
        """Return the files of "train", "valid" or "test"."""
        return self.splits[split]

    @cached_property
    def digests(self) -> dict[str, str]:
        """Name and content digest of each of the six files."""
        return file_digests(self.splits)

    @property
    def fingerprint(self) -> str:
        """Digest of the contents of the six files."""
        return fingerprint(self.digests)

    def setup(self, stage: str | None = None) -> None:
        """Map the splits of a stage, converted first if their layout needs it.

        Every rank does the same.

        Args:
            stage: "fit" prepares train and valid, "validate" valid, "test" and "predict" test,
                None all.
        """
        self._prepare(STAGES[stage])

    def _prepare(self, splits: Sequence[str]) -> None:
        wanted = [split for split in splits if split not in self.datasets]
        if not wanted:
            return
        if fault := describe_missing(self.root):
            raise InputError(f"root={self.root}: {fault}; expected six H5 files")
        labels = {split: read_labels(self.files(split)) for split in wanted}
        scale = check_scales(self.splits, self.scale)
        excluded = self._excluded_rows() if "train" in wanted else np.empty(0, np.int64)
        for split in wanted:
            patches = patch_file(self.files(split), self.cache, scale)
            self.datasets[split] = PatchDataset(patches, labels[split])
        if "train" in wanted:
            self._select_training_rows(labels["train"], excluded)

    def _select_training_rows(self, labels: np.ndarray, excluded: np.ndarray) -> None:
        train = self.datasets["train"]
        keep = np.ones(len(train), bool)
        if self.filter == "blank":
            blank = self._of_training_pixels("blank rows", lambda: blank_rows(train).tolist())
            self.dropped["blank"] = len(blank)
            keep[blank] = False
        self.dropped["excluded"] = len(excluded)
        keep[excluded] = False
        if not keep.any():
            raise InputError("data.filter, data.exclude: no training patch is left, expected some")
        if not keep.all():
            self.datasets["train"] = PatchDataset(train.patches, labels, np.flatnonzero(keep))

    def close(self) -> None:
        """Stop the processes of all loaders."""
        for loader in self._loaders:
            loader.close()
        self._loaders.clear()

    def teardown(self, stage: str) -> None:
        self.close()

    def cleaning(self) -> dict[str, Cleaning]:
        """Return the number of values changed by the conversion to uint8, by split."""
        return {split: dataset.patches.cleaning for split, dataset in self.datasets.items()}

    @cached_property
    def slides(self) -> dict[str, np.ndarray | None]:
        """Slide id of every row of "val" and "test"; None for a split without known slides."""
        return {name: read_slides(self.files(split)) for name, split in SPLIT_FILES.items()}

    @cached_property
    def channel_statistics(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of each channel for normalization, on the 0..1 scale."""
        if self.normalize != "train":
            return [0.5] * 3, [0.5] * 3
        train = self._dataset("train")
        rows = xxhash.xxh3_128_hexdigest(train.rows.data)
        mean, std = self._of_training_pixels(
            f"mean and deviation of rows {rows}",
            lambda: list(statistics_of(chunks(train)).mean_and_std()),
        )
        if min(std) == 0:
            raise InputError("data.normalize=train: the training patches are all of one color")
        return mean, std

    def train_dataloader(self) -> BatchLoader:
        dataset, (rank, world_size) = self._dataset("train"), self._ranks()
        batches = EpochBatches(
            dataset.labels, self.batch_size, self.sampler, self.seed, rank, world_size
        )
        self.check_batch_size(world_size)
        return self._loader("train", batches)

    def val_dataloader(self) -> BatchLoader:
        return self._evaluation_loader("valid")

    def test_dataloader(self) -> BatchLoader:
        return self._evaluation_loader("test")

    def predict_dataloader(self) -> BatchLoader:
        return self._evaluation_loader("test")

    def check_batch_size(self, ranks: int) -> None:
        """Raise `InputError` if the training patches are fewer than a batch on each rank."""
        rows = len(self._dataset("train"))
        if self.batch_size * ranks > rows:
            raise InputError(
                f"data.batch_size={self.batch_size} on {ranks} rank(s): expected no more than the "
                f"{rows} training patches"
            )

    def _dataset(self, split: str) -> PatchDataset:
        self._prepare([split])
        return self.datasets[split]

    def _of_training_pixels(self, fact: str, find_out: Callable[[], Any]) -> Any:
        """Return a fact that needs a pass over the training patches, which is made once."""
        files = self.files("train")
        with open_dataset(files, "x") as dataset:
            fact = f"{fact}, cleaned v{VERSION}, scale {self.scale}"
            return recall(dataset, files.images, fact, find_out)

    def _excluded_rows(self) -> np.ndarray:
        if self.exclude is None:
            return np.empty(0, np.int64)
        lengths = {split: check_images(self.files(split)) for split in SPLITS}
        table, made_on = read_findings(Path(self.exclude), lengths)
        if not is_fingerprint(self.splits, made_on):
            raise InputError(
                f"data.exclude={self.exclude}: made on other files than those in {self.root}; "
                f"expected the findings of python -m pcam_lightning.audit data.root={self.root}"
            )
        named = (table["split"] == "train") & table["kind"].isin(list(self.exclude_kinds))
        return np.unique(table.loc[named, "row"].to_numpy(np.int64))

    def _evaluation_loader(self, split: str) -> BatchLoader:
        length = len(self._dataset(split))
        return self._loader(split, SequentialBatches(length, self.batch_size, *self._ranks()))

    def _ranks(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _loader(self, split: str, batches: Sampler[np.ndarray]) -> BatchLoader:
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        if self._keeps_on(device):
            if split not in self._resident:
                self._resident[split] = ResidentDataset(self.datasets[split], device)
            return BatchLoader(self._resident[split], batches)
        on_gpu = device.type == "cuda"
        ranks = self.trainer.num_devices if self.trainer else 1
        # Label and row take 8 bytes each.
        check_shared_memory(self.num_workers, self.batch_size * (PATCH_BYTES + 16), ranks)
        loader = BatchLoader(self.datasets[split], batches, self.num_workers, pin_memory=on_gpu)
        self._loaders.append(loader)
        return loader

    def _keeps_on(self, device: torch.device) -> bool:
        """Return whether to keep the splits in this device's memory."""
        if self.device_resident is True and device.type == "cpu":
            raise InputError("data.device_resident=true: no GPU in use, expected auto or false")
        if isinstance(self.device_resident, bool):
            return self.device_resident
        if self._resident:  # the first split decided
            return True
        if device.type != "cuda" or self.num_workers:
            return False
        needed = PATCH_BYTES * sum(len(dataset) for dataset in self.datasets.values())
        return needed <= torch.cuda.mem_get_info(device)[0] / 2


def blank_rows(dataset: PatchDataset) -> np.ndarray:
    """Return the rows of a data set with black or white patches. int64 [n]."""
    sums = np.concatenate([channel_sums(chunk).sum(axis=1) for chunk in chunks(dataset)])
    blank = (sums <= BLACK * PATCH_BYTES) | (sums >= WHITE * PATCH_BYTES)
    return dataset.rows[blank]


def chunks(dataset: PatchDataset, size: int = 256) -> Iterator[np.ndarray]:
    """Yield all patches of a data set in order, `size` at a time."""
    return (
        dataset.pixels[dataset.rows[start : start + size]] for start in range(0, len(dataset), size)
    )
