"""Conversion of pixels to uint8; every changed value is counted."""

from dataclasses import asdict, astuple, dataclass

import numpy as np

from pcam_lightning.data.scale import BYTES, Scale


@dataclass
class Cleaning:
    """Number of pixel values changed by the conversion to uint8, by reason."""

    nan: int = 0
    infinite: int = 0
    below_0: int = 0
    above_255: int = 0
    patches: int = 0
    """Number of patches with at least one changed value."""

    def __add__(self, other: "Cleaning") -> "Cleaning":
        return Cleaning(*(sum(pair) for pair in zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True)
class Changes:
    """Number of changed values in each of N patches, by reason. int64 [N] each."""

    nan: np.ndarray
    infinite: np.ndarray
    below_0: np.ndarray
    above_255: np.ndarray

    def total(self) -> Cleaning:
        counts = asdict(self)
        return Cleaning(
            **{reason: int(counts[reason].sum()) for reason in counts},
            patches=int(np.count_nonzero(sum(counts.values()))),
        )


def to_uint8(pixels: np.ndarray, scale: Scale = BYTES) -> tuple[np.ndarray, Changes]:
    """Map patches [N, ...] from their scale to 0..255 and clean them; count the changes.

    NaN becomes 0, values outside 0..255, infinite ones included, become the nearer bound, other
    values are rounded to the nearest integer. Nothing wraps. uint8 patches on the scale 0..255 are
    returned unchanged. Changes are counted after the mapping.
    """
    pixels = scale.to_255(pixels)
    changes = _changes(pixels)
    if pixels.dtype == np.uint8:
        return pixels, changes
    if any(counts.any() for counts in vars(changes).values()):
        pixels = np.clip(pixels, 0, 255)
        if pixels.dtype.kind == "f":
            pixels = np.nan_to_num(pixels, copy=False, nan=0.0)
    if pixels.dtype.kind == "f":
        pixels = np.rint(pixels)
    return pixels.astype(np.uint8), changes


def _changes(pixels: np.ndarray) -> Changes:
    counts = {name: np.zeros(len(pixels), np.int64) for name in Changes.__dataclass_fields__}
    if pixels.dtype == np.uint8 or not pixels.size:
        return Changes(**counts)
    # A patch with NaN has the minimum NaN, and no comparison with NaN is true. Almost all patches
    # are clean, so few need the slower counts.
    values = pixels.reshape(len(pixels), -1)
    rows = np.flatnonzero(~((values.min(axis=1) >= 0) & (values.max(axis=1) <= 255)))
    odd = values[rows]
    if odd.dtype.kind == "f":
        counts["nan"][rows] = np.isnan(odd).sum(axis=1)
        counts["infinite"][rows] = np.isinf(odd).sum(axis=1)
        odd = np.where(np.isfinite(odd), odd, 0)
    counts["below_0"][rows] = (odd < 0).sum(axis=1)
    counts["above_255"][rows] = (odd > 255).sum(axis=1)
    return Changes(**counts)
