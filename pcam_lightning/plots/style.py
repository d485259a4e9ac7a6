"""One style for all figures: colors, axes, legends, saving.

Figures are made without pyplot: no global state, no display, safe in any thread.
"""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, Any, Literal

from pcam_lightning.files import atomic_write

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, MaxNLocator
    from numpy.typing import NDArray

# Okabe and Ito's palette, which color-blind readers can tell apart.
BLUE, ORANGE, GREEN, PINK, SKY, YELLOW = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#E69F00",
)
INK, GRAY, FAINT = "#222222", "#6B6B6B", "#E4E4E4"
CYCLE = (BLUE, ORANGE, GREEN, PINK, SKY, YELLOW, GRAY)


def new_figure(title: str, x: str, y: str, height: float = 4.5) -> tuple[Figure, Axes]:
    """Return a figure of 9 x `height` inches and its axes."""
    # Not pyplot: it keeps every figure alive and picks a backend for the whole process.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set_title(title, loc="left", fontsize=14, fontweight="bold", color=INK, pad=26)
    style_axes(axes, x, y, grid="y")
    axes.margins(x=0.02)
    return figure, axes


def style_axes(axes: Axes, x: str, y: str, grid: Literal["x", "y", "both"] = "both") -> None:
    """Set axis labels, spines, ticks and grid in the style of all figures."""
    axes.set_xlabel(x, color=INK)
    axes.set_ylabel(y, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GRAY)
    axes.tick_params(color=GRAY, labelcolor=INK)
    axes.grid(axis=grid, color=FAINT, lw=0.8)
    axes.set_axisbelow(True)


def log_ticks(decades: float) -> LogLocator:
    from matplotlib.ticker import LogLocator

    return LogLocator(subs=(1, 2, 5) if decades < 3 else (1,))


def log_scale(axes: Axes, decades: float) -> None:
    from matplotlib.ticker import NullFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(log_ticks(decades))
    axes.yaxis.set_major_formatter(plain_number)
    axes.yaxis.set_minor_formatter(NullFormatter())


def whole_numbers() -> MaxNLocator:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(integer=True)


def plain_number(value: float, _: object) -> str:
    return f"{value:.6g}"


def mark_best(axes: Axes, x: float, label: str | None = None) -> None:
    axes.axvline(x, color=INK, lw=1, ls=":", zorder=1, label=label)


def count_steps(count: int) -> str:
    return "1 step" if count == 1 else f"{count} steps"


def mark_edge(
    axes: Axes, steps: NDArray[np.float64], color: str, marker: str, what: str, why: str
) -> None:
    """Mark steps whose values lie outside the picture at its upper edge."""
    if len(steps):
        edge, heights = axes.get_xaxis_transform(), [0.985] * len(steps)
        label = f"{what} {why} ({count_steps(len(steps))})"
        axes.plot(steps, heights, marker, transform=edge, color=color, ms=6, mew=0, label=label)


def legend(axes: Axes, title: str | None = None) -> None:
    # Next to the axes: inside, it would cover the curves of some run.
    legend = axes.legend(
        title=title,
        loc="center left",
        bbox_to_anchor=(1.01, 0.5),
        frameon=False,
        fontsize=9,
        labelcolor=INK,
        alignment="left",
    )
    legend.get_title().set_fontsize(9)


def add_subtitle(figure: Figure, text: str) -> None:
    """Write a line below the title of a figure's first axes."""
    # parse_math=False: a name may contain dollar signs.
    place: Any = {"xy": (0, 1), "xycoords": "axes fraction", "textcoords": "offset points"}
    figure.axes[0].annotate(text, xytext=(0, 8), **place, fontsize=10, color=GRAY, parse_math=False)


def save(figure: Figure, path: str | os.PathLike[str], subtitle: str | None = None) -> None:
    """Write a figure as PNG, atomically, with a subtitle below the title of its first axes."""
    if subtitle is not None:
        add_subtitle(figure, subtitle)
    image = io.BytesIO()
    figure.savefig(image, format="png")
    atomic_write(path, image.getvalue())
