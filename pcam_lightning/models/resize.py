"""Resizing of patches, as part of a network."""

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate


class Resize(nn.Module):
    """Layer that resizes square maps as `torch.nn.functional.interpolate` does.

    Every output pixel is a weighted sum of input pixels, along rows and then along columns, so
    that two matrix products compute it. On a CPU these take about a fifth of the time of
    `interpolate` (bicubic, 96 to 160 pixels).

    Args:
        before: side of the input in pixels.
        after: side of the output in pixels.
        mode: "bicubic" or "bilinear".
    """

    weights: Tensor
    """The part of each input pixel of a column in each output pixel, [after, before]."""

    def __init__(self, before: int, after: int, mode: str) -> None:
        super().__init__()
        columns = torch.eye(before).view(1, 1, before, before)
        weights = interpolate(columns, (after, before), mode=mode)[0, 0]
        self.register_buffer("weights", weights, persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Map float [B, C, before, before] to [B, C, after, after] in channels-last memory."""
        # Mixed precision would round the pixels twice.
        with torch.autocast(pixels.device.type, enabled=False):
            resized = self.weights @ pixels.contiguous() @ self.weights.T
        return resized.contiguous(memory_format=torch.channels_last)
