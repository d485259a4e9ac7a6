"""Loaders of the same training patches: this package's, two others, and a plain memory copy."""

import logging
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

from pcam_lightning.benchmark.timer import Implementation, Sample
from pcam_lightning.data import PCamDataModule
from pcam_lightning.data.files import SplitFiles, is_channels_first, name_of, open_dataset
from pcam_lightning.models import Normalize

log = logging.getLogger(__name__)

TRANSFORM: Callable[[Image.Image], torch.Tensor] = Compose(
    [ToTensor(), NormalizeTensor([0.5] * 3, [0.5] * 3)]
)
"""Usual transform of a PIL image: a float32 tensor [3, H, W] in [-1, 1]."""


class SampleAtATime(Dataset[tuple[torch.Tensor, int]]):
    """The dataset of most pipelines: each sample is a row of an open H5 file, read through PIL."""

    def __init__(self, files: SplitFiles) -> None:
        self.files = files
        with open_dataset(files, "y") as labels:
            self.rows = labels.shape[0]
        self.datasets: list[h5py.Dataset] = []

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        if not self.datasets:  # opened in each worker, since HDF5's state does not survive a fork
            self.contexts = [open_dataset(self.files, part) for part in ("x", "y")]
            self.datasets = [context.__enter__() for context in self.contexts]
        images, labels = self.datasets
        pixels = np.asarray(images[row]).astype(np.uint8)
        if is_channels_first(images):
            pixels = np.moveaxis(pixels, 0, -1)
        label = int(np.asarray(labels[row]).item())
        return TRANSFORM(Image.fromarray(pixels)), label


def implementations(datamodule: PCamDataModule, dtype: torch.dtype) -> dict[str, Implementation]:
    """Return loaders of the training split by name, shuffled, with the data module's batch size.

    Each yields batches of normalized floats: this package's in `dtype`, the others in float32, the
    only dtype of their transforms. The memory copy copies uint8 batches in file order and is an
    upper limit for every loader.
    """
    batch_size = datamodule.batch_size
    files = datamodule.files("train")
    pixels = np.asarray(datamodule.datasets["train"].patches.map())
    normalize = Normalize().to(dtype)

    def memory_copy() -> Iterator[Sample]:
        target = np.empty_like(pixels[:batch_size])
        for start in range(0, len(pixels) - batch_size + 1, batch_size):
            np.copyto(target, pixels[start : start + batch_size])
            yield Sample(batch_size)

    def pcam_lightning() -> Iterator[Sample]:
        for batch in datamodule.train_dataloader():
            normalize(batch.image)
            yield Sample(len(batch.row))

    def load(dataset: Dataset) -> Iterator[Sample]:
        for _, label in DataLoader(dataset, batch_size, shuffle=True, drop_last=True):
            yield Sample(len(label))

    def torchvision_pcam() -> Iterator[Sample]:
        with TemporaryDirectory() as folder:
            (Path(folder) / "pcam").mkdir()
            for part in ("x", "y"):  # torchvision knows the official names only
                link = Path(folder, "pcam", files.names(part)[0])
                link.symlink_to(files.path(part).resolve())
            yield from load(PCAM(folder, split="train", transform=TRANSFORM))

    loaders: dict[str, Implementation] = {
        "memory copy": memory_copy,
        "pcam_lightning": pcam_lightning,
        "sample at a time": lambda: load(SampleAtATime(files)),
    }
    with open_dataset(files, "x") as images, open_dataset(files, "y") as labels:
        if is_channels_first(images) or (name_of(images), name_of(labels)) != ("x", "y"):
            log.info("torchvision cannot read %s, so it is not measured", files.images)
            return loaders
    return loaders | {"torchvision PCAM": torchvision_pcam}
