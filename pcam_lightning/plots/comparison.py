"""Figures with the curves of several runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pcam_lightning.errors import one_line
from pcam_lightning.plots.history import read_history
from pcam_lightning.plots.style import CYCLE, FAINT, GRAY, save
from pcam_lightning.runs import Run

WINDOWS = 50
"""Number of windows into which a run is divided to smooth its training loss."""
POINTS = 200
"""Number of points to which the steps of a run are merged where many runs share a figure."""


@dataclass(frozen=True)
class History:
    """The history of a run.

    Attributes:
        group: text of the legend; runs with the same text share a color.
        metrics: as `Run.metrics`.
        steps: columns `step`, `loss`, `norm` and `lr` of `Run.gradients`, of those that it has.
    """

    group: str
    metrics: pd.DataFrame
    steps: pd.DataFrame


def plot_comparison(
    path: Path,
    runs: Sequence[Run],
    names: Sequence[str],
    datasets: Sequence[str],
    divergence: Sequence[int],
) -> None:
    """Plot training loss, validation loss, validation AUROC and gradient norm of each run.

    Args:
        path: PNG to write, atomically.
        runs: each is drawn with a thinner line than the previous one, so that equal curves stay
            visible.
        names: names of the runs for the legend.
        datasets: dataset names of the runs for the legend.
        divergence: steps from which a run differs from the first.
    """
    figure = Figure(figsize=(12, 7), dpi=130, layout="constrained")
    panels = figure.subplots(2, 2)
    for place, (run, name) in enumerate(zip(runs, names, strict=True)):
        style = {
            "color": CYCLE[place % len(CYCLE)],
            "lw": max(1.0, 4.0 - 1.5 * place),
            "label": one_line(name),
        }
        metrics, gradients = read_history(run)
        window = max(1, len(gradients) // WINDOWS)
        for axes, column in ((panels[0, 0], "loss"), (panels[1, 1], "norm")):
            if column in gradients and "step" in gradients:
                smooth = gradients[column].rolling(window, min_periods=1, center=True).median()
                axes.plot(gradients["step"], smooth, **style)
        for axes, column in ((panels[0, 1], "val/loss"), (panels[1, 0], "val/auroc")):
            if column in metrics and "epoch" in metrics:
                values = metrics[["epoch", column]].dropna()
                axes.plot(values["epoch"], values[column], marker="o", ms=4, **style)
    titles = ("training loss, running median", "validation loss", "validation AUROC")
    for axes, title in zip(panels.flat, (*titles, "gradient norm, running median"), strict=True):
        _dress(axes, title)
    for axes in (panels[0, 0], panels[1, 1]):
        axes.set_xlabel("step")
        for step in sorted(set(divergence)):
            axes.axvline(step, color=GRAY, ls=":", lw=1.5, label=f"diverged at step {step}")
    for axes in (panels[0, 1], panels[1, 0]):
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    handles, labels = panels[0, 0].get_legend_handles_labels()
    title = f"dataset: {', '.join(dict.fromkeys(datasets))}"
    legend = figure.legend(
        handles, labels, title=one_line(title), loc="outside upper left", ncols=2, frameon=False
    )
    for text in (legend.get_title(), *legend.get_texts()):
        text.set_parse_math(False)
    save(figure, path)


def _dress(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color=FAINT)
    if not any(np.isfinite(line.get_ydata()).any() for line in axes.lines):
        axes.text(0.5, 0.5, "not recorded", transform=axes.transAxes, ha="center", color=GRAY)


def plot_histories(histories: Sequence[History]) -> Figure:
    """Plot validation AUROC, training loss, gradient norm and learning rate of many runs.

    Runs of a group share a color and one entry of the legend; later groups than the first
    `len(CYCLE)` are gray.
    """
    figure = Figure(figsize=(12, 7), dpi=110, layout="constrained")
    panels = figure.subplots(2, 2)
    groups = list(dict.fromkeys(each.group for each in histories))
    colors = dict(zip(groups, [*CYCLE, *[GRAY] * len(groups)], strict=False))
    for place, history in enumerate(histories):
        first = all(each.group != history.group for each in histories[:place])
        style = {"color": colors[history.group], "lw": 1.3, "alpha": 0.75}
        style["label"] = one_line(history.group, 60) if first and len(groups) > 1 else "_"
        metrics, steps = history.metrics, history.steps
        if "val/auroc" in metrics and "epoch" in metrics:
            values = metrics[["epoch", "val/auroc"]].dropna()
            panels[0, 0].plot(values["epoch"], values["val/auroc"], marker="o", ms=3, **style)
        # Merged to a few points: 200 runs of 100,000 steps are drawn in seconds.
        width = max(1, len(steps) // POINTS)
        merged = steps.groupby(np.arange(len(steps)) // width).median(numeric_only=True)
        for axes, column in ((panels[0, 1], "loss"), (panels[1, 0], "norm"), (panels[1, 1], "lr")):
            if column in merged:
                axes.plot(merged["step"], merged[column], **style)
    titles = ("validation AUROC", "training loss, median", "gradient norm, median", "learning rate")
    for axes, title in zip(panels.flat, titles, strict=True):
        _dress(axes, title)
        axes.set_xlabel("step")
    panels[0, 0].set_xlabel("epoch")
    panels[0, 0].xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(groups) > 1:
        handles, labels = panels[0, 0].get_legend_handles_labels()
        shown = handles[: len(CYCLE)], labels[: len(CYCLE)]
        legend = figure.legend(*shown, loc="outside lower left", ncols=2, frameon=False)
        for text in legend.get_texts():
            text.set_parse_math(False)
    return figure
