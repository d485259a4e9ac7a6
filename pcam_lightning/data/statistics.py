"""Exact pixel statistics: brightness of patches, mean and standard deviation of channels."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from pcam_lightning.data.files import PATCH_SHAPE

BLACK, WHITE = 1, 254
"""Means at most and at least which a patch is black or white."""
LINE = PATCH_SHAPE[1] * 3  # values in a line of pixels


def channel_sums(patches: np.ndarray) -> np.ndarray:
    """Sum each channel of each patch. uint8 [N, 96, 96, 3] to int64 [N, 3], 0..2,350,080."""
    # Lines are summed first: sums of 96 bytes fit 16 bits, and the inner loop stays long.
    lines = patches.reshape(-1, PATCH_SHAPE[0], LINE).sum(axis=1, dtype=np.uint16)
    return lines.reshape(-1, PATCH_SHAPE[1], 3).sum(axis=1, dtype=np.int64)


@dataclass
class ChannelStatistics:
    """Exact sums over patches, accumulated chunk by chunk."""

    patches: int = 0
    sums: np.ndarray = field(default_factory=lambda: np.zeros(3, np.int64))
    squares: np.ndarray = field(default_factory=lambda: np.zeros(3, np.int64))

    def add(self, patches: np.ndarray, sums: np.ndarray | None = None) -> None:
        """Add patches, uint8 [N, 96, 96, 3]; `sums` are their `channel_sums`, if known."""
        self.patches += len(patches)
        self.sums += (channel_sums(patches) if sums is None else sums).sum(axis=0)
        wide = patches.reshape(-1, PATCH_SHAPE[0], LINE).astype(np.uint16)
        wide *= wide  # at most 255 * 255, which 16 bits hold
        lines = wide.sum(axis=1, dtype=np.uint32)
        self.squares += lines.reshape(-1, 3).sum(axis=0, dtype=np.int64)

    def __add__(self, other: "ChannelStatistics") -> "ChannelStatistics":
        return ChannelStatistics(
            self.patches + other.patches, self.sums + other.sums, self.squares + other.squares
        )

    def mean_and_std(self) -> tuple[list[float], list[float]]:
        """Return mean and population standard deviation of each channel, on the 0..1 scale."""
        count = self.patches * PATCH_SHAPE[0] * PATCH_SHAPE[1]
        mean = self.sums / count
        variance = self.squares / count - mean**2
        return (mean / 255).tolist(), (np.sqrt(np.maximum(variance, 0)) / 255).tolist()


def statistics_of(chunks: Iterable[np.ndarray]) -> ChannelStatistics:
    """Return the statistics of all patches in chunks of uint8 [n, 96, 96, 3]."""
    total = ChannelStatistics()
    for chunk in chunks:
        total.add(chunk)
    return total
