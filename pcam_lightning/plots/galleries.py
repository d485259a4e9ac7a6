"""Grids of patches with captions."""

import os
import textwrap
from collections.abc import Sequence
from typing import Literal

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pcam_lightning.plots.style import save

PATCH = 96  # pixels
GAP, LINE, TITLE_LINE = 12, 15, 24  # pixels
DPI = 100
LEGEND = "outlined: the center 32 x 32 pixels, which decide the label"
LIMIT = 2**16  # pixels; limit of the renderer for each side


def plot_gallery(
    path: str | os.PathLike[str],
    patches: NDArray[np.uint8],
    captions: Sequence[str],
    title: str,
    columns: int = 8,
    scale: int = 2,
) -> None:
    """Write a PNG grid of patches, row by row, the center 32 x 32 outlined, a caption under each.

    Every pixel of a patch becomes `scale` x `scale` pixels of exactly its color: nothing is
    smoothed, stretched or normalized. The outline is drawn around the center and covers none of
    its pixels.

    Args:
        path: PNG to write, atomically.
        patches: [N, 96, 96, 3] uint8 RGB, N >= 1.
        captions: N texts; long lines are wrapped.
        title: above the grid.
        columns: patches in a row, >= 1; fewer if there are fewer patches.
        scale: >= 1.

    Raises:
        ValueError: arguments not as above, or so many patches that no picture could hold them.
    """
    patches = np.asarray(patches)
    if patches.shape[1:] != (PATCH, PATCH, 3) or patches.dtype != np.uint8 or not len(patches):
        raise ValueError(
            f"patches must be uint8 [N, 96, 96, 3] with N >= 1, "
            f"got {patches.dtype} {list(patches.shape)}"
        )
    if len(captions) != len(patches) or columns < 1 or scale < 1:
        raise ValueError(
            f"need a caption for each patch, columns >= 1 and scale >= 1, got {len(patches)} "
            f"patches, {len(captions)} captions, columns {columns}, scale {scale}"
        )
    columns = min(columns, len(patches))
    side = PATCH * scale
    texts = [_wrapped(caption, side / 6.5) for caption in captions]
    cell = side + 4 + LINE * max(text.count("\n") + 1 for text in texts) + GAP
    width = columns * (side + GAP) + GAP
    heading, legend = _wrapped(title, width / 11), _wrapped(LEGEND, width / 6.5)
    legend_top = GAP + TITLE_LINE * (heading.count("\n") + 1)
    top = legend_top + LINE * (legend.count("\n") + 1) + GAP
    height = top + -(-len(patches) // columns) * cell
    if max(width, height) >= LIMIT:
        raise ValueError(f"{len(patches)} patches make a picture of {width} x {height} pixels")

    # The extra hundredth keeps inches times dots per inch from being rounded down a pixel.
    figure = Figure(figsize=((width + 0.01) / DPI, (height + 0.01) / DPI), dpi=DPI)

    def write(x: float, y: float, text: str, size: int, align: Literal["left", "center"]) -> None:
        figure.text(
            x / width,
            1 - y / height,
            text,
            ha=align,
            va="top",
            fontsize=size,
            parse_math=False,
        )

    canvas = np.full((height, width, 3), 255, dtype=np.uint8)
    for i, (patch, text) in enumerate(zip(patches, texts, strict=True)):
        x = GAP + i % columns * (side + GAP)
        y = top + i // columns * cell
        canvas[y : y + side, x : x + side] = _enlarged(patch, scale)
        write(x + side / 2, y + side + 4, text, 8, "center")
    write(GAP, GAP / 2, heading, 13, "left")
    write(GAP, legend_top, legend, 8, "left")
    figure.figimage(canvas, zorder=-1)
    save(figure, path)


def heat(patches: NDArray[np.uint8], maps: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Return gray patches with their maps [N, 96, 96] >= 0 in color, uint8 [N, 96, 96, 3].

    Each map is scaled by its largest value, which becomes yellow; pixels with 0 stay gray.
    """
    highest = maps.max((1, 2), keepdims=True)
    share = np.divide(maps, highest, out=np.zeros_like(maps), where=highest > 0)[..., None]
    gray = patches.mean(3, keepdims=True).repeat(3, axis=3)
    color = colormaps["inferno"](share[..., 0])[..., :3] * 255
    return np.clip(gray + 0.75 * share**0.5 * (color - gray), 0, 255).round().astype(np.uint8)


def _enlarged(patch: NDArray[np.uint8], scale: int) -> NDArray[np.uint8]:
    """Enlarge [96, 96, 3] to [96 scale, 96 scale, 3], with a two-tone outline around the center."""
    picture = patch.repeat(scale, axis=0).repeat(scale, axis=1)
    low, high = 32 * scale, 64 * scale
    center = picture[low:high, low:high].copy()
    # Black inside yellow: one of them contrasts with any stain; H&E has no yellow.
    for thickness, color in ((3, (240, 228, 66)), (1, (0, 0, 0))):
        edge = slice(low - thickness, high + thickness)
        picture[edge, edge] = color
    picture[low:high, low:high] = center
    return picture


def _wrapped(text: str, characters: float) -> str:
    """Wrap the text to lines of at most this many characters; keep its own line breaks."""
    lines = [textwrap.wrap(line, max(8, int(characters))) or [""] for line in text.split("\n")]
    return "\n".join(line for wrapped in lines for line in wrapped)
