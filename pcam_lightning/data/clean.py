"""Pixels of any numeric dtype to uint8, with everything that had to be changed counted."""

from dataclasses import asdict, dataclass

import numpy as np

from pcam_lightning.data.scale import BYTES, Scale


@dataclass
class Cleaning:
    """How many pixel values were changed on the way to uint8, by reason."""

    nan: int = 0
    infinite: int = 0
    below_0: int = 0
    above_255: int = 0
    patches: int = 0
    """Patches with at least one changed value."""

    def __add__(self, other: "Cleaning") -> "Cleaning":
        mine, theirs = asdict(self), asdict(other)
        return Cleaning(**{key: mine[key] + theirs[key] for key in mine})


@dataclass(frozen=True)
class Changes:
    """How many values of each of N patches were changed, by reason. int64 [N] each."""

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
    """Map patches [N, ...] from their scale to 0..255 and clean them.

    NaN becomes 0, values outside 0..255 (infinities among them) become the nearer bound, and the
    rest is rounded to the nearest integer. Nothing wraps. uint8 on the scale 0..255 comes back as
    it is. What is changed is counted after the mapping.
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
    # NaN makes minimum and maximum NaN, and no comparison with NaN is true. Almost every patch is
    # sound, so this is the only look most patches get.
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
