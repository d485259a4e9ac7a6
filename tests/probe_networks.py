"""Small networks with features, for tests of the feature files."""

import os
import time
from pathlib import Path

import torch
from lightning import Fabric
from torch import Tensor, nn

from pcam_lightning.probe.extraction import Extractor
from pcam_lightning.probe.features import FeatureFile

WIDTH, BATCH = 6, 2


class ColorFeatures(nn.Module):
    """Means and deviations of the colors of a patch; it counts its calls in a file.

    Args:
        calls: file that gets one byte for each batch.
        pause: seconds that each batch takes.
        factor: of the features.
    """

    def __init__(self, calls: Path, pause: float = 0.0, factor: float = 1.0) -> None:
        super().__init__()
        self.calls, self.pause, self.factor = calls, pause, factor
        self.head = nn.Linear(WIDTH, 1)

    def features(self, image: Tensor) -> Tensor:
        handle = os.open(self.calls, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(handle, b".")
        os.close(handle)
        time.sleep(self.pause)
        pixels = image.float().flatten(1, 2)
        return self.factor * torch.cat([pixels.mean(1), pixels.std(1)], dim=1)


def extractor(calls: Path, pause: float = 0.0, factor: float = 1.0) -> Extractor:
    fabric = Fabric(accelerator="cpu", devices=1)
    return Extractor(ColorFeatures(calls, pause, factor), BATCH, fabric)


def compute(file: FeatureFile, pixels: object, calls: Path, pause: float = 0.0) -> None:
    """Compute a feature file; the target of a process."""
    torch.set_num_threads(1)
    file.make(extractor(calls, pause), pixels)
