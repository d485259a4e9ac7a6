"""A network that gives a patch the same logit in all eight orientations.

Group convolutions (Cohen and Welling 2016) apply every filter in four rotations and their mirror
images, the group p4m; the authors of PatchCamelyon used them on pathology (Veeling et al. 2018).
"""

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from pcam_lightning.models.normalize import Normalize

ORIENTATIONS = 8
"""Elements of the dihedral group: four quarter turns, and the same after a mirror image."""


def orient(image: Tensor, element: int) -> Tensor:
    """Turn the last two axes of a tensor by quarter turns, and mirror them first from 4 on.

    Args:
        image: [..., H, W] with H = W.
        element: 0 to 7; 0 changes nothing.
    """
    mirrored = image.flip(-1) if element >= 4 else image
    return torch.rot90(mirrored, element % 4, (-2, -1))


def compose(first: int, second: int) -> int:
    """Return the element that does what `first` and then `second` do."""
    mark = torch.arange(4.0, device="cpu").view(2, 2)
    both = orient(orient(mark, first), second)
    return next(each for each in range(ORIENTATIONS) if orient(mark, each).equal(both))


class GroupConv(nn.Module):
    """Convolution over positions and orientations.

    Orienting the input orients every map of the output and permutes its orientations. On maps with
    an even side, this holds for odd kernels with stride 1 and for even kernels with stride 2, both
    padded to keep or to halve the side: their windows lie symmetrically.

    All channels of the first orientation come first, then those of the second.

    Args:
        before: number of channels of the input; each has 8 orientations, or 1 for an image.
        after: number of channels of the output, each with 8 orientations.
        size: side of the kernel.
        stride: 1 or 2.
        lifts: the input is an image, without orientations.
    """

    index: Tensor

    def __init__(
        self, before: int, after: int, size: int, stride: int = 1, lifts: bool = False
    ) -> None:
        super().__init__()
        sources = 1 if lifts else ORIENTATIONS
        self.stride, self.padding = stride, (size - 1) // 2
        self.weight = nn.Parameter(torch.empty(after, before, sources, size, size))
        nn.init.kaiming_uniform_(self.weight.view(after, -1, size, size), a=math.sqrt(5))
        self.register_buffer("index", _places(sources, size), persistent=False)

    def forward(self, maps: Tensor) -> Tensor:
        """Map [B, sources * before, H, W] to [B, 8 * after, H / stride, W / stride]."""
        after, before, sources, size, _ = self.weight.shape
        # Each row of the index has the places of a filter's values for one orientation.
        oriented = self.weight.flatten(2)[:, :, self.index]
        shape = (after, before, ORIENTATIONS, sources, size, size)
        filters = oriented.view(shape).permute(2, 0, 3, 1, 4, 5).flatten(2, 3).flatten(0, 1)
        filters = filters.contiguous(memory_format=torch.channels_last)
        return conv2d(maps, filters, stride=self.stride, padding=self.padding)


def _places(sources: int, size: int) -> Tensor:
    """Return where the values of an oriented filter are in the filter, int64 [8, sources * K * K].

    Orientation g of a filter looks at source h where the filter itself looks at source g^-1 h.
    """
    # On the CPU also where a network is built without memory, on the device meta.
    places = torch.arange(sources * size * size, device="cpu").view(sources, size, size)
    rows = []
    for element in range(ORIENTATIONS):
        oriented = orient(places, element)
        if sources > 1:
            order = torch.empty(ORIENTATIONS, dtype=torch.int64, device="cpu")
            for source in range(ORIENTATIONS):
                order[compose(source, element)] = source
            oriented = oriented[order]
        rows.append(oriented.flatten())
    return torch.stack(rows)


class GroupNorm(nn.BatchNorm2d):
    """Batch normalization with one mean and deviation for all orientations of a channel."""

    def forward(self, maps: Tensor) -> Tensor:  # type: ignore[override]
        """Map [B, 8 * C, H, W] to the same shape."""
        height, width = maps.shape[-2:]
        # Orientations as further columns: in channels-last memory, no value moves.
        lines = maps.permute(0, 2, 3, 1).reshape(len(maps), height, width * ORIENTATIONS, -1)
        normalized = super().forward(lines.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return normalized.reshape(len(maps), height, width, -1).permute(0, 3, 1, 2)


class P4MCNN(nn.Module):
    """Network of the structure of `CNN` with group convolutions: the orientation has no effect.

    Each stage halves the map with an even kernel; the head receives the mean over all orientations
    and positions and over the center third.

    Args:
        channels: number of channels of each stage, each with 8 orientations.
        dropout: share of the head's features dropped while training, in [0, 1).
    """

    def __init__(self, channels: Sequence[int] = (6, 11, 21, 42), dropout: float = 0.0) -> None:
        super().__init__()
        self.normalize = Normalize()
        layers: list[nn.Module] = [_stage(3, channels[0], size=6, stride=2, lifts=True), nn.ReLU()]
        for before, after in itertools.pairwise(channels):
            layers += [_stage(before, after, size=4, stride=2), nn.ReLU(), GroupResidual(after)]
        self.stages = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(2 * channels[-1], 1))

    def forward(self, image: Tensor) -> Tensor:
        """Map uint8 [B, 96, 96, 3] to logits [B]."""
        features = self.stages(self.normalize(image)).unflatten(1, (ORIENTATIONS, -1))
        third = features.shape[-1] // 3
        center = features[..., third:-third, third:-third]
        pooled = torch.cat([features.mean((1, 3, 4)), center.mean((1, 3, 4))], dim=1)
        return self.head(pooled).squeeze(1)


class GroupResidual(nn.Module):
    """Two 3 x 3 group convolutions whose output is added to their input (He et al. 2016)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            _stage(channels, channels), nn.ReLU(), _stage(channels, channels)
        )

    def forward(self, maps: Tensor) -> Tensor:
        """Map [B, 8 * C, H, W] to the same shape."""
        return torch.relu(maps + self.layers(maps))


def _stage(
    before: int, after: int, size: int = 3, stride: int = 1, lifts: bool = False
) -> nn.Sequential:
    return nn.Sequential(GroupConv(before, after, size, stride, lifts), GroupNorm(after))
