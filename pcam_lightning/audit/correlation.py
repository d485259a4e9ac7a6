"""Correlation of two patches over the area that both show, which decides whether they are alike."""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pcam_lightning.audit.landmarks import BLOCKS, FEWEST_BLOCKS, SIDE, STRUCTURED

Pixel = TypeVar("Pixel", bound=np.generic)
Number = TypeVar("Number", int, NDArray[np.int64])

ORIENTATIONS = (
    "identity", "turned 90", "turned 180", "turned 270",
    "mirrored", "turned 90, mirrored", "turned 180, mirrored", "turned 270, mirrored",
)  # fmt: skip
"""The 8 orientations of a square: turned counterclockwise, then mirrored left to right."""
FARTHEST = 24
"""Largest shift in pixels along each axis; patches that share less of the tissue are not paired."""
MARGIN = 8
"""Pixels that the band-pass near the border of the shared area mixes with pixels outside of it."""
LEAST = 0.85
"""Smallest correlation of two patches of the same tissue; docs/data.md has measurements."""
AGREEING = 0.75
"""Smallest share of the structured blocks of the shared area that correlate on their own."""
LEAST_OF_BLOCK, PROMISING = 0.5, 0.4


@dataclass(frozen=True)
class Alignment:
    """The transformation from one patch to another, and their correlation over the shared area.

    The second patch, brought into the orientation and moved down and right by the shift, lies on
    the first patch.
    """

    orientation: int
    shift_y: int
    shift_x: int
    correlation: float = 0.0

    def inverse(self) -> "Alignment":
        """Return the transformation from the second patch to the first."""
        back = self.orientation if self.orientation >= 4 else -self.orientation % 4
        y, x = turn_vector(-self.shift_y, -self.shift_x, back)
        return Alignment(back, y, x, self.correlation)

    def __str__(self) -> str:
        turned = f"{ORIENTATIONS[self.orientation]}, " if self.orientation else ""
        moved = f"moved {self.shift_y},{self.shift_x}, " if self.shift_y or self.shift_x else ""
        return f"{turned}{moved}correlation {self.correlation:.3f}"


def turn(image: NDArray[Pixel], orientation: int) -> NDArray[Pixel]:
    """Bring images [..., H, W] into one of the `ORIENTATIONS`."""
    turned = np.rot90(image, orientation % 4, axes=(-2, -1))
    return turned[..., ::-1] if orientation >= 4 else turned


def turn_vector(y: Number, x: Number, orientation: int) -> tuple[Number, Number]:
    """Return the displacement (y, x), numbers or arrays, after the image was turned."""
    for _ in range(orientation % 4):
        y, x = -x, y
    return (y, -x) if orientation >= 4 else (y, x)


def align(
    first: NDArray[np.float32], second: NDArray[np.float32], proposed: Alignment
) -> Alignment:
    """Return the proposed alignment of band-passed patches [96, 96] with the best close shift."""
    turned = turn(second, proposed.orientation)
    best = (-1.0, proposed.shift_y, proposed.shift_x)
    coarse = _correlation(*_shared(first, turned, *best[1:], step=2))
    if coarse < PROMISING:
        return Alignment(proposed.orientation, *best[1:], correlation=coarse)
    tried: set[tuple[int, int]] = set()
    center = None
    while center != best[1:]:
        center = best[1:]
        for y in range(center[0] - 1, center[0] + 2):
            for x in range(center[1] - 1, center[1] + 2):
                if (y, x) not in tried and max(abs(y), abs(x)) <= FARTHEST:
                    tried.add((y, x))
                    best = max(best, (_correlation(*_shared(first, turned, y, x)), y, x))
    return Alignment(proposed.orientation, best[1], best[2], best[0])


def shows_same_tissue(
    first: NDArray[np.float32], second: NDArray[np.float32], alignment: Alignment
) -> bool:
    """Return whether aligned band-passed patches [96, 96] correlate, and not in one spot only.

    Among 4 x 4 blocks of the shared area, enough have structure in both patches, and most of these
    correlate on their own: a nucleus on empty glass looks like any other.
    """
    if alignment.correlation < LEAST:
        return False
    turned = turn(second, alignment.orientation)
    pair = _shared(first, turned, alignment.shift_y, alignment.shift_x)
    rows, columns = (np.array_split(np.arange(size), BLOCKS) for size in pair[0].shape)
    structured = agreeing = 0
    for row in rows:
        for column in columns:
            one, other = (each[row[0] : row[-1] + 1, column[0] : column[-1] + 1] for each in pair)
            if min(one.std(), other.std()) >= STRUCTURED * 0.75:
                structured += 1
                agreeing += _correlation(one, other) >= LEAST_OF_BLOCK
    return structured >= FEWEST_BLOCKS and agreeing >= AGREEING * structured


def _shared(
    first: NDArray[np.float32], turned: NDArray[np.float32], y: int, x: int, step: int = 1
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the area that both show, from each of them, when `turned` is moved by y and x.

    It is smaller by `MARGIN` on each side.
    """
    rows, columns = SIDE - abs(y) - 2 * MARGIN, SIDE - abs(x) - 2 * MARGIN
    top, left = max(y, 0) + MARGIN, max(x, 0) + MARGIN
    other_top, other_left = max(-y, 0) + MARGIN, max(-x, 0) + MARGIN
    return (
        first[top : top + rows : step, left : left + columns : step],
        turned[other_top : other_top + rows : step, other_left : other_left + columns : step],
    )


def _correlation(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """Return Pearson's correlation of two images, 0 if one of them is constant."""
    one, other = first - first.mean(), second - second.mean()
    norm = float(np.vdot(one, one)) * float(np.vdot(other, other))
    # Rounding may carry the correlation of equal images above 1.
    return min(1.0, float(np.vdot(one, other)) / norm**0.5) if norm > 1e-6 else 0.0
