"""Pictures of a sweep: scores by configuration, effects of each key, parallel coordinates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.special import stdtrit

from pcam_lightning.errors import one_line
from pcam_lightning.metrics.metrics import METRICS
from pcam_lightning.plots.history import METRIC_NAMES
from pcam_lightning.plots.style import (
    BLUE,
    FAINT,
    GRAY,
    INK,
    ORANGE,
    add_subtitle,
    new_figure,
    save,
)
from pcam_lightning.sweeps.best import SELECTION_SPLIT
from pcam_lightning.sweeps.table import DEFAULT, Configuration, deviation, mean

LEVEL = 0.95
LOG_FROM = 10  # ratio of the largest to the smallest value from which an axis is logarithmic


def plot_sweep(
    folder: Path,
    configurations: Sequence[Configuration],
    metric: str,
    best: Configuration | None,
    dataset: str,
) -> list[Path]:
    """Draw `seeds.png`, `effects.png` and `parallel.png`, and return the paths written.

    Args:
        folder: created if necessary.
        configurations: configurations without a score are left out; `effects.png` needs a swept
            key, `parallel.png` two keys and two configurations.
        metric: the validation metric to draw.
        best: the configuration to highlight.
        dataset: name to print on every picture.
    """
    figures = figures_of(configurations, metric, best, dataset)
    for name, figure in figures.items():
        save(figure, folder / name)
    return [folder / name for name in figures]


def figures_of(
    configurations: Sequence[Configuration],
    metric: str,
    best: Configuration | None,
    dataset: str,
) -> dict[str, Figure]:
    """Return the figures of a sweep by file name; arguments as in `plot_sweep`."""
    scored = [each for each in configurations if len(each.scores(SELECTION_SPLIT, metric))]
    keys = list(configurations[0].values) if configurations else []
    figures: dict[str, Figure] = {}
    if scored:
        figures["seeds.png"] = plot_seeds(scored, metric, best)
    if scored and keys:
        figures["effects.png"] = plot_effects(scored, keys, metric)
    if len(scored) > 1 and len(keys) > 1:
        figures["parallel.png"] = plot_parallel(scored, keys, metric, best)
    for figure in figures.values():
        add_subtitle(figure, one_line(f"dataset: {dataset}"))
    return figures


def interval(values: np.ndarray) -> float:
    """Return half the width of a mean's 95% t interval, NaN for fewer than two values."""
    if len(values) < 2:
        return math.nan
    return float(stdtrit(len(values) - 1, (1 + LEVEL) / 2)) * deviation(values) / len(values) ** 0.5


def plot_seeds(
    configurations: Sequence[Configuration], metric: str, best: Configuration | None
) -> Figure:
    """Draw every run as a point and every configuration's mean with its interval, best on top."""
    sign = -1 if METRICS[metric] == "higher" else 1
    ordered = sorted(configurations, key=lambda each: sign * each.mean(SELECTION_SPLIT, metric))
    name = _name(metric)
    figure, axes = new_figure(
        f"Validation {name} by configuration", name, "", height=2.2 + 0.3 * len(ordered)
    )
    scores = [each.scores(SELECTION_SPLIT, metric) for each in ordered]
    for place, (configuration, values) in enumerate(zip(ordered, scores, strict=True)):
        color, reach = ORANGE if configuration is best else BLUE, interval(values)
        # The points lie above the mean and its interval, which would hide them.
        axes.plot(values, [place - 0.22] * len(values), "o", color=color, alpha=0.6, ms=5, mew=0)
        bar = None if math.isnan(reach) else reach
        axes.errorbar(mean(values), place, xerr=bar, fmt="D", color=INK, ms=4.5, lw=1.3)
    axes.plot([], [], "o", color=BLUE, alpha=0.6, ms=5, mew=0, label="run")
    if best is not None:
        axes.plot([], [], "o", color=ORANGE, ms=5, mew=0, label="run of the best configuration")
    axes.errorbar(
        [], [], xerr=[], fmt="D", color=INK, ms=4.5, label=f"mean, {LEVEL:.0%} interval (t)"
    )
    axes.set_xlim(*_limits(scores))
    _mark_constant(axes, configurations, metric)
    labels = _labels(ordered)
    axes.set_yticks(range(len(ordered)), labels, fontsize=9, parse_math=False)
    axes.set_ylim(len(ordered) - 0.5, -0.5)
    axes.grid(axis="x", color=FAINT, lw=0.8)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def plot_effects(
    configurations: Sequence[Configuration], keys: Sequence[str], metric: str
) -> Figure:
    """Draw a panel for each key: all runs by the key's value, and the mean of each value."""
    columns = min(3, len(keys))
    rows = math.ceil(len(keys) / columns)
    figure = Figure(figsize=(max(6, 4 * columns), 1.2 + 3.4 * rows), dpi=150, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axes, key in zip(panels.flat, keys, strict=False):
        values, _ = _ordered([each.values[key] for each in configurations])
        groups = [
            np.concatenate(
                [
                    s.scores(SELECTION_SPLIT, metric)
                    for s in configurations
                    if s.values[key] == value
                ]
            )
            for value in values
        ]
        for place, group in enumerate(groups):
            # Even offsets instead of random ones keep the picture reproducible.
            x = place + np.linspace(-0.12, 0.12, len(group)) if len(group) > 1 else [place]
            axes.plot(x, group, "o", color=BLUE, alpha=0.35, ms=5, mew=0)
        axes.plot(range(len(values)), [mean(group) for group in groups], "D-", color=INK, ms=5)
        labels = [one_line(value, 18) for value in values]
        axes.set_xticks(range(len(values)), labels, parse_math=False)
        if sum(map(len, labels)) > 30:
            axes.tick_params(axis="x", rotation=30)
        axes.set_xlim(-0.5, len(values) - 0.5)
        axes.set_xlabel(one_line(key, 40), color=INK, parse_math=False)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color=FAINT, lw=0.8)
    for axes in panels.flat[len(keys) :]:
        axes.set_visible(False)
    for axes in panels[:, 0]:
        axes.set_ylabel(f"validation {_name(metric)}", color=INK)
    panels[0, 0].plot([], [], "o", color=BLUE, alpha=0.35, label="run")
    panels[0, 0].plot([], [], "D-", color=INK, label="mean of the value")
    title = "Effect of each key, averaged over the others"
    panels[0, 0].set_title(title, loc="left", fontsize=14, fontweight="bold", color=INK, pad=26)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def plot_parallel(
    configurations: Sequence[Configuration],
    keys: Sequence[str],
    metric: str,
    best: Configuration | None,
) -> Figure:
    """Draw parallel coordinates: a line per configuration, from its values to its mean score."""
    figure = Figure(figsize=(max(7.5, 2.2 * (len(keys) + 1)), 5.5), dpi=150, layout="constrained")
    axes = figure.subplots()
    scores = np.array([each.mean(SELECTION_SPLIT, metric) for each in configurations])
    low, high = scores.min(), scores.max()
    heights = [_heights([each.values[key] for each in configurations]) for key in keys]
    top = (scores - low) / (high - low) if high > low else np.full(len(scores), 0.5)
    if METRICS[metric] == "lower":
        low, high, top = high, low, 1 - top  # the best score is always on top
    # A small offset separates lines through the same value; the better line is higher.
    offset = 0.05 * (top - 0.5)
    lines = np.column_stack([*(places + offset for places, _ in heights), top])
    colors = colormaps["cividis"](0.9 * (1 - top))
    for place in np.argsort(top, kind="stable"):
        axes.plot(lines[place], color=colors[place], lw=1.3, alpha=0.75)
    for line, each in zip(lines, configurations, strict=True):
        if each is best:
            axes.plot(line, "o-", color=ORANGE, lw=2.8, ms=5, label="best configuration")
            figure.legend(loc="outside lower center", frameon=False, fontsize=9)
    ticks = [labels for _, labels in heights]
    ends = [(0.0, f"{low:.4g}"), (1.0, f"{high:.4g}")] if high != low else [(0.5, f"{low:.4g}")]
    for column, labels in enumerate([*ticks, ends]):
        axes.axvline(column, color=GRAY, lw=1, zorder=0)
        for height, text in labels:
            axes.annotate(
                one_line(text, 18), (column, height), (4, 0), textcoords="offset points",
                fontsize=9, color=INK, va="center", parse_math=False,
                bbox={"fc": "white", "ec": "none", "alpha": 0.75, "pad": 0.8},
            )  # fmt: skip
    labels = [*(one_line(key, 24) for key in keys), f"val {_name(metric)}"]
    axes.set_xticks(range(len(labels)), labels, parse_math=False)
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelcolor=INK)
    axes.set_xlim(-0.1, len(keys) + 0.45)
    title = f"Configurations and their mean validation {_name(metric)}"
    axes.set_title(title, loc="left", fontsize=14, fontweight="bold", color=INK, pad=26)
    return figure


def _mark_constant(axes: Axes, configurations: Sequence[Configuration], metric: str) -> None:
    """Mark the best constant predictor by a line, or in the legend if it is far from the scores."""
    higher = METRICS[metric] == "higher"
    values = [
        scores[metric]
        for configuration in configurations
        for scores in configuration.constants(SELECTION_SPLIT).values()
        if math.isfinite(scores[metric])
    ]
    if not values:
        return
    value = max(values) if higher else min(values)
    low, high = axes.get_xlim()
    label, room = f"best constant, {value:.3f}", high - low
    if value < low - room or value > high + room:
        axes.plot([], [], color=INK, ls="--", lw=1, label=f"{label} (outside the picture)")
        return
    axes.axvline(value, color=INK, ls="--", lw=1, zorder=1, label=label)
    axes.set_xlim(min(low, value - 0.05 * room), max(high, value + 0.05 * room))


def _limits(scores: Sequence[np.ndarray]) -> tuple[float, float]:
    """Return axis limits for all points, extended to the intervals by half the points' range."""
    points = np.concatenate(scores)
    low, high = points.min(), points.max()
    room = (high - low) or 0.02
    reaches = [(mean(each), interval(each)) for each in scores if len(each) > 1]
    ends = [center + side * reach for center, reach in reaches for side in (-1, 1)]
    low, high = max(min([low, *ends]), low - room / 2), min(max([high, *ends]), high + room / 2)
    return low - 0.05 * room, high + 0.05 * room


def _labels(configurations: Sequence[Configuration]) -> list[str]:
    """Return the configurations' names, with only the last part of each key if it is unique."""
    keys = list(configurations[0].values)
    ends = [key.rpartition(".")[2] for key in keys]
    brief = [end if ends.count(end) == 1 else key for key, end in zip(keys, ends, strict=True)]
    named = [dict(zip(brief, each.values.values(), strict=True)) for each in configurations]
    return [one_line(Configuration(values, []).name, 60) for values in named]


def _heights(values: Sequence[str]) -> tuple[np.ndarray, list[tuple[float, str]]]:
    """Return the position of each value on an axis from 0 to 1, float64 [N], and axis labels."""
    choices, numbers = _ordered(values)
    if len(choices) == 1:
        return np.full(len(values), 0.5), [(0.5, choices[0])]
    if numbers is None:
        scale = np.linspace(0, 1, len(choices))
    else:
        logs = numbers.min() > 0 and numbers.max() >= LOG_FROM * numbers.min()
        scale = np.log(numbers) if logs else numbers
        scale = (scale - scale.min()) / (scale.max() - scale.min())
    places = dict(zip(choices, scale.tolist(), strict=True))
    return np.array([places[value] for value in values]), [
        (at, name) for name, at in places.items()
    ]


def _ordered(values: Sequence[str]) -> tuple[list[str], np.ndarray | None]:
    """Return the distinct values in axis order, and their numbers if all are numbers."""
    choices = sorted(set(values) - {DEFAULT}) + [DEFAULT] * (DEFAULT in values)
    try:
        numbers = np.array([float(choice) for choice in choices])
    except ValueError:
        return choices, None
    if not np.isfinite(numbers).all() or len(set(numbers)) < len(choices):
        return choices, None
    order = np.argsort(numbers)
    return [choices[place] for place in order], numbers[order]


def _name(metric: str) -> str:
    return METRIC_NAMES.get(f"val/{metric}", metric.replace("_", " "))
