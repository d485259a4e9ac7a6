"""Normalization of pixels, as part of every network."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

SHAPE = (96, 96, 3)
"""Height, width and channels of a patch."""


class Normalize(nn.Module):
    """Layer that maps uint8 [B, 96, 96, 3] to float [B, 3, 96, 96] in channels-last memory.

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
        """Normalize patches; raise TypeError for another dtype or shape."""
        # Floats on another scale or with channels first would give other logits without an error.
        if image.dtype != torch.uint8 or image.shape[1:] != SHAPE:
            found = f"{str(image.dtype).removeprefix('torch.')} {list(image.shape)}"
            raise TypeError(
                f"a network got patches of {found}, expected uint8 [B, 96, 96, 3], RGB, 0 to 255"
            )
        batch, height, width, channels = image.shape
        # By image row, since 3 channels are too few for vector instructions; in place on the copy,
        # to save memory traffic.
        lines = image.reshape(batch, height, width * channels).to(self.mean.dtype, copy=True)
        scale = 1 / (255 * self.std.view(channels))
        shift = -self.mean.view(channels) / self.std.view(channels)
        lines.mul_(scale.repeat(width)).add_(shift.repeat(width))
        # Permuting NHWC gives a channels-last NCHW view: no pixel moves.
        return lines.view(batch, height, width, channels).permute(0, 3, 1, 2)
