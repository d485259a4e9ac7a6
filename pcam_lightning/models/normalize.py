"""Bytes to normalised floats, as part of every network."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Normalize(nn.Module):
    """uint8 [B, H, W, 3] in 0..255 to float [B, 3, H, W] in channels-last memory.

    Computes (x / 255 - mean) / std per channel. Mean and standard deviation (on the 0..1 scale)
    are buffers, so they travel in the checkpoint and whoever loads it preprocesses alike.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, mean: Sequence[float] = (0.5, 0.5, 0.5), std: Sequence[float] = (0.5, 0.5, 0.5)
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        # Permuting NHWC gives a channels-last NCHW view: no pixel moves.
        image = image.permute(0, 3, 1, 2).to(self.mean.dtype, copy=True)
        # In place, on the copy: a third of the memory traffic.
        return image.sub_(255 * self.mean).div_(255 * self.std)
