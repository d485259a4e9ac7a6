"""A small residual network that trains in minutes on two CPU cores."""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pcam_lightning.models.normalize import Normalize


class CNN(nn.Module):
    """Network of stages that halve the feature map, each followed by a residual block.

    The first stage is a single 5 x 5 convolution, since a further layer at 48 x 48 would cost as
    much as all others together. The head receives the mean over the whole patch and the mean over
    its center third, which decides the label.

    Args:
        channels: number of channels of each stage; with four stages the last map is 6 x 6.
        dropout: share of the head's features dropped while training, in [0, 1).
        center_max: the head also receives the maximum over the center third, because one pixel of
            tumour there decides the label.
    """

    def __init__(
        self,
        channels: Sequence[int] = (16, 32, 64, 128),
        dropout: float = 0.0,
        center_max: bool = True,
    ) -> None:
        super().__init__()
        self.normalize = Normalize()
        layers: list[nn.Module] = [_convolution(3, channels[0], size=5, stride=2), nn.ReLU()]
        for before, after in itertools.pairwise(channels):
            layers += [_convolution(before, after, stride=2), nn.ReLU(), ResidualBlock(after)]
        self.stages = nn.Sequential(*layers)
        self.center_max = center_max
        features = (3 if center_max else 2) * channels[-1]
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(features, 1))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, image: Tensor) -> Tensor:
        """Map uint8 [B, 96, 96, 3] to logits [B]."""
        features = self.stages(self.normalize(image))
        third = features.shape[-1] // 3
        center = features[..., third:-third, third:-third]
        pooled = [features.mean((2, 3)), center.mean((2, 3))]
        if self.center_max:
            pooled.append(center.amax((2, 3)))
        return self.head(torch.cat(pooled, dim=1)).squeeze(1)


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions whose output is added to their input (He et al. 2016)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            _convolution(channels, channels), nn.ReLU(), _convolution(channels, channels)
        )

    def forward(self, features: Tensor) -> Tensor:
        """Map [B, C, H, W] to the same shape."""
        return torch.relu(features + self.layers(features))


def _convolution(before: int, after: int, size: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, size, stride, padding=size // 2, bias=False),
        nn.BatchNorm2d(after),
    )
