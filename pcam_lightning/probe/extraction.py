"""Features of a frozen network, a batch of patches at a time."""

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from lightning import Fabric
from numpy.typing import NDArray
from torch import Tensor, nn

from pcam_lightning.errors import InputError

HELD_BATCHES = 8
"""Batches whose features stay on a GPU, so that it seldom waits for a copy."""


class Extractor:
    """The features of a network for patches, in the precision of the trainer.

    Args:
        network: moved to the device; its method `features` maps uint8 [B, 96, 96, 3] to float
            [B, F].
        batch_size: patches in a forward pass.
        fabric: device and precision.
    """

    def __init__(self, network: nn.Module, batch_size: int, fabric: Fabric) -> None:
        self.batch_size, self._fabric = batch_size, fabric
        self._network: Any = fabric.setup_module(network.eval()).module
        self._held = HELD_BATCHES if fabric.device.type == "cuda" else 1

    def extract(self, pixels: Any, start: int, name: str) -> Iterator[NDArray[np.float16]]:
        """Yield the features of consecutive patches in order, float16 [n, F].

        Args:
            pixels: patches, sliced like an array, uint8 [N, 96, 96, 3].
            start: the first row.
            name: name of the patches' file, for an error.

        Raises:
            InputError: a feature is not finite as float16.
        """
        held: list[Tensor] = []
        for first in range(start, len(pixels), self.batch_size):
            held.append(self._features(pixels[first : first + self.batch_size]))
            last = first + len(held[-1])
            if len(held) == self._held or last == len(pixels):
                features = torch.cat(held).cpu().numpy()
                held.clear()
                _check_finite(features, last - len(features), name)
                yield features

    @torch.inference_mode()
    def _features(self, patches: np.ndarray) -> Tensor:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            image = torch.from_numpy(np.asarray(patches))
        device = self._fabric.device
        if device.type == "cuda":  # the copy of one batch overlaps with the passes before it
            image = image.pin_memory().to(device, non_blocking=True)
        with self._fabric.autocast():
            return self._network.features(image.to(device)).to(torch.float16)


def _check_finite(features: NDArray[np.float16], first: int, name: str) -> None:
    finite = np.isfinite(features).all(axis=1)
    if not finite.all():
        row = first + int((~finite).argmax())
        raise InputError(
            f"{name}: the features of row {row} are not finite as float16 (largest magnitude "
            f"{np.finfo(np.float16).max:.0f}); expected other weights, or trainer.precision=32-true"
        )
