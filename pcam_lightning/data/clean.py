"""Pixels of any numeric dtype to uint8, with everything that had to be changed counted."""

from dataclasses import asdict, dataclass

import numpy as np


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


def to_uint8(pixels: np.ndarray) -> tuple[np.ndarray, Cleaning]:
    """Clean patches [N, ...] of values meant to lie in 0..255.

    NaN becomes 0, values outside 0..255 (infinities among them) become the nearer bound, and the
    rest is rounded to the nearest integer. Nothing wraps. uint8 comes back as it is.
    """
    if pixels.dtype == np.uint8:
        return pixels, Cleaning()
    finite = np.isfinite(pixels) if pixels.dtype.kind == "f" else np.True_
    nan = np.isnan(pixels) if pixels.dtype.kind == "f" else np.zeros((1,) * pixels.ndim, bool)
    below, above = finite & (pixels < 0), finite & (pixels > 255)
    changed = ~finite | below | above
    cleaning = Cleaning(
        nan=int(nan.sum()),
        infinite=int((~finite & ~nan).sum()) if pixels.dtype.kind == "f" else 0,
        below_0=int(below.sum()),
        above_255=int(above.sum()),
        patches=int(changed.reshape(len(pixels), -1).any(axis=1).sum()),
    )
    clipped = np.clip(pixels, 0, 255)
    if pixels.dtype.kind == "f":
        clipped = np.rint(np.where(nan, 0, clipped))
    return clipped.astype(np.uint8), cleaning
