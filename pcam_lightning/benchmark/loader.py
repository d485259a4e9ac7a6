"""Loaders of the same training patches: this one, the usual ones, and a plain memory copy."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import h5py
import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets import PCAM
from torchvision.transforms import Compose, ToTensor
from torchvision.transforms import Normalize as NormalizeTensor
from torchvision.transforms.functional import pil_to_tensor

from pcam_lightning.benchmark.timer import Implementation, Sample
from pcam_lightning.data import PCamDataModule
from pcam_lightning.data.cache import patch_file
from pcam_lightning.data.files import SplitFiles, chunk_rows, open_dataset
from pcam_lightning.data.scale import Scale
from pcam_lightning.models import Normalize

Transform = Callable[[Image.Image], torch.Tensor]
TO_BYTES: Transform = pil_to_tensor
TO_NORMALIZED: Transform = Compose([ToTensor(), NormalizeTensor([0.5] * 3, [0.5] * 3)])


class SampleAtATime(Dataset[tuple[torch.Tensor, int]]):
    """The loader that most pipelines write: an open H5 file, one row, a PIL image, a tensor."""

    def __init__(self, files: SplitFiles, transform: Transform = TO_BYTES) -> None:
        self.files, self.transform = files, transform
        with h5py.File(files.labels, "r") as file:
            self.rows = file["y"].shape[0]  # type: ignore[union-attr]
        self.images = self.labels = None

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        if self.images is None:  # in each worker anew: HDF5's state does not survive a fork
            self.images = h5py.File(self.files.images, "r")["x"]
            self.labels = h5py.File(self.files.labels, "r")["y"]
        pixels = np.asarray(self.images[row]).astype(np.uint8)  # type: ignore[index]
        label = int(np.asarray(self.labels[row]).item())  # type: ignore[index]
        return self.transform(Image.fromarray(pixels)), label


def contenders(datamodule: PCamDataModule, dtype: torch.dtype) -> dict[str, Implementation]:
    """Name to contender, all on the training split, shuffled, in batches of the data module's size.

    "bytes" are uint8 batches; "normalized" ones are floats that a network can be given, here of
    `dtype`, by the others in float32 (which is all their transforms make). The memory copy, of
    one batch of bytes after another in file order, is what no loader can beat.
    """
    batch_size = datamodule.batch_size
    files = datamodule.files("train")
    pixels = np.asarray(datamodule.datasets["train"].patches.map())
    normalize = Normalize().to(dtype)

    def copy() -> Iterator[Sample]:
        target = np.empty_like(pixels[:batch_size])
        for start in range(0, len(pixels) - batch_size + 1, batch_size):
            np.copyto(target, pixels[start : start + batch_size])
            yield Sample(batch_size)

    def ours() -> Iterator[Sample]:
        for batch in datamodule.train_dataloader():
            yield Sample(len(batch.row))

    def normalized() -> Iterator[Sample]:
        for batch in datamodule.train_dataloader():
            normalize(batch.image)
            yield Sample(len(batch.row))

    def one_by_one(dataset: Dataset) -> Iterator[Sample]:
        for _, label in DataLoader(dataset, batch_size, shuffle=True, drop_last=True):
            yield Sample(len(label))

    def torchvisions(transform: Transform) -> Iterator[Sample]:
        with TemporaryDirectory() as folder:
            (Path(folder) / "pcam").symlink_to(datamodule.root.resolve())
            yield from one_by_one(PCAM(folder, split="train", transform=transform))

    return {
        "memory copy": copy,
        "pcam_lightning, bytes": ours,
        "sample at a time, bytes": lambda: one_by_one(SampleAtATime(files)),
        "torchvision PCAM, bytes": lambda: torchvisions(TO_BYTES),
        "pcam_lightning, normalized": normalized,
        "sample at a time, normalized": lambda: one_by_one(SampleAtATime(files, TO_NORMALIZED)),
        "torchvision PCAM, normalized": lambda: torchvisions(TO_NORMALIZED),
    }


def conversion(files: SplitFiles, scale: Scale | None = None) -> dict[str, Implementation]:
    """Name to contender: one sequential read of a split's patches as h5py decodes them, and their
    conversion to a mapped uint8 copy. Each yields once, when it has gone through the file.

    Both read from the disk: a float32 copy of all of PCam, 36 GB, stays in few machines' memory.
    """

    def forget() -> None:
        with files.images.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def read() -> Iterator[Sample]:
        forget()
        with open_dataset(files.images, "x") as dataset:
            rows = chunk_rows(dataset)
            target = np.empty((rows, *dataset.shape[1:]), dataset.dtype)
            for start in range(0, dataset.shape[0], rows):
                stop = min(start + rows, dataset.shape[0])
                dataset.read_direct(target, np.s_[start:stop], np.s_[: stop - start])
            yield Sample(dataset.shape[0])

    def convert() -> Iterator[Sample]:
        forget()
        with TemporaryDirectory(dir=files.root) as folder:
            yield Sample(patch_file(files, Path(folder), scale=scale).rows)

    return {"sequential read": read, "conversion to uint8": convert}
