"""Features of the appearance of a patch, which `slices` cuts predictions by.

All are computed from the raw bytes of a patch, before any normalization:

brightness   mean of all pixels and channels, 0 (black) to 1 (white)
blank        share of pixels without tissue, 0 to 1: nearly white (every channel at least 220 of
             255) or nearly black (no channel above 10)
hue          angle of the mean color on the color circle, in degrees from 120 to 480 (Hanbury
             2008): 240 is blue, 300 magenta, 360 red, 420 yellow. The range starts at green,
             which is opposite to the colors of hematoxylin and eosin. Gray patches have 300
saturation   colorfulness, 0 (gray) to 1: the mean of HSV's saturation (largest minus smallest
             channel, divided by the largest) over pixels, weighted by their largest channel
sharpness    standard deviation of the Laplacian (4 neighbors) of the mean channel, in gray levels
             0 to 255; low for blurred patches (Pech-Pacheco et al. 2000)
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

FEATURES: Mapping[str, str] = MappingProxyType(
    {
        "brightness": "mean intensity, 0 to 1",
        "blank": "share of pixels without tissue",
        "hue": "angle of the mean color, degrees",
        "saturation": "colorfulness, 0 to 1",
        "sharpness": "deviation of the Laplacian, gray levels",
    }
)
"""Columns that `compute` returns, each with a short description."""

CHUNK = 64  # patches computed at a time, so that they fit the processor's cache
WHITE, BLACK = 220, 10


class Patches(Protocol):
    """An array of uint8 patches [N, 96, 96, 3], or an object that is indexed like one."""

    def __len__(self) -> int: ...
    def __getitem__(self, key: slice | NDArray[np.int64], /) -> NDArray[np.uint8]: ...


def compute(patches: Patches) -> dict[str, NDArray[np.float32]]:
    """Return each of `FEATURES` for N patches, float32 [N]."""
    parts = [
        _compute(patches[start : start + CHUNK]) for start in range(0, len(patches), CHUNK)
    ] or [dict.fromkeys(FEATURES, np.empty(0))]
    return {
        name: np.concatenate([part[name] for part in parts]).astype(np.float32) for name in FEATURES
    }


def _compute(pixels: NDArray[np.uint8]) -> dict[str, NDArray[np.float64]]:
    red, green, blue = (pixels[..., channel] for channel in range(3))
    highest = np.maximum(np.maximum(red, green), blue)
    lowest = np.minimum(np.minimum(red, green), blue)
    gray = red.astype(np.int16) + green + blue
    center = gray[:, 1:-1, 1:-1]
    laplacian = (4 * center).astype(np.int32)
    laplacian -= gray[:, :-2, 1:-1] + gray[:, 2:, 1:-1]
    laplacian -= gray[:, 1:-1, :-2] + gray[:, 1:-1, 2:]
    count = highest[0].size
    r, g, b = (np.sum(channel, (1, 2), dtype=np.int64) / count for channel in (red, green, blue))
    top = np.sum(highest, (1, 2), dtype=np.int64)
    chroma = top - np.sum(lowest, (1, 2), dtype=np.int64)
    # This is the circular mean of the pixels' hues, weighted by their chroma.
    hue = np.degrees(np.arctan2(np.sqrt(3) * (g - b), 2 * r - g - b))
    hue = np.where(chroma == 0, 300.0, (hue - 120) % 360 + 120)
    return {
        "brightness": (r + g + b) / (3 * 255),
        "blank": ((lowest >= WHITE) | (highest <= BLACK)).mean((1, 2)),
        "hue": hue,
        "saturation": chroma / np.maximum(top, 1),
        "sharpness": laplacian.std((1, 2)) / 3,
    }
