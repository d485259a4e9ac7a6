"""Loaders of the same training patches: this one, the usual ones, and a plain memory copy."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import h5py
import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets import PCAM
from torchvision.transforms.functional import pil_to_tensor

from pcam_lightning.benchmarking.clock import Contender
from pcam_lightning.data import PCamDataModule
from pcam_lightning.data.files import SplitFiles
from pcam_lightning.models import Normalize


class SampleAtATime(Dataset[tuple[torch.Tensor, int]]):
    """The loader that most pipelines write: an open H5 file, one row, a PIL image, a tensor."""

    def __init__(self, files: SplitFiles) -> None:
        self.images = h5py.File(files.images, "r")["x"]
        self.labels = h5py.File(files.labels, "r")["y"]

    def __len__(self) -> int:
        return self.images.shape[0]  # type: ignore[union-attr]

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        pixels = np.asarray(self.images[row]).astype(np.uint8)  # type: ignore[index]
        label = int(np.asarray(self.labels[row]).item())  # type: ignore[index]
        return pil_to_tensor(Image.fromarray(pixels)), label


def contenders(datamodule: PCamDataModule, dtype: torch.dtype) -> dict[str, Contender]:
    """Name to contender, all on the training split, shuffled, in batches of the data module's size.

    The memory copy, of one batch of bytes after another in file order, is what no loader that
    hands out fresh batches can beat. `dtype` is that of the normalised batches.
    """
    batch_size = datamodule.batch_size
    files = datamodule.files("train")
    pixels = np.asarray(datamodule.datasets["train"].patches.map())
    normalize = Normalize().to(dtype)

    def copy() -> Iterator[int]:
        target = np.empty_like(pixels[:batch_size])
        for start in range(0, len(pixels) - batch_size + 1, batch_size):
            np.copyto(target, pixels[start : start + batch_size])
            yield batch_size

    def ours() -> Iterator[int]:
        for batch in datamodule.train_dataloader():
            yield len(batch.row)

    def normalised() -> Iterator[int]:
        for batch in datamodule.train_dataloader():
            normalize(batch.image)
            yield len(batch.row)

    def one_by_one(dataset: Dataset) -> Iterator[int]:
        for _, label in DataLoader(dataset, batch_size, shuffle=True, drop_last=True):
            yield len(label)

    def torchvisions() -> Iterator[int]:
        with TemporaryDirectory() as folder:
            (Path(folder) / "pcam").symlink_to(datamodule.root.resolve())
            yield from one_by_one(PCAM(folder, split="train", transform=pil_to_tensor))

    return {
        "memory copy": copy,
        "pcam_lightning, bytes": ours,
        "pcam_lightning, normalised": normalised,
        "sample at a time, h5py and PIL": lambda: one_by_one(SampleAtATime(files)),
        "torchvision.datasets.PCAM": torchvisions,
    }
