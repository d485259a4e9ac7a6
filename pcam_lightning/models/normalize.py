"""Normalization of pixels, as part of every network."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Normalize(nn.Module):
    """Layer that maps uint8 [B, H, W, 3] to float [B, 3, H, W] in channels-last memory.

    Computes (x / 255 - mean) / std per channel. Mean and standard deviation (on the 0..1 scale)
    are buffers, so that the checkpoint includes them.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, mean: Sequence[float] = (0.5, 0.5, 0.5), std: Sequence[float] = (0.5, 0.5, 0.5)
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))

    def set(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Replace both by one value for each channel."""
        self.mean.copy_(torch.tensor(mean).view(1, 3, 1, 1))
        self.std.copy_(torch.tensor(std).view(1, 3, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        batch, height, width, channels = image.shape
        # By image row, since 3 channels are too few for vector instructions; in place on the copy,
        # to save memory traffic.
        lines = image.reshape(batch, height, width * channels).to(self.mean.dtype, copy=True)
        scale = 1 / (255 * self.std.view(channels))
        shift = -self.mean.view(channels) / self.std.view(channels)
        lines.mul_(scale.repeat(width)).add_(shift.repeat(width))
        # Permuting NHWC gives a channels-last NCHW view: no pixel moves.
        return lines.view(batch, height, width, channels).permute(0, 3, 1, 2)
