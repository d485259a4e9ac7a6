"""Figure with the curves of several runs."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pcam_lightning.errors import one_line
from pcam_lightning.plots.history import read_history
from pcam_lightning.plots.style import CYCLE, FAINT, GRAY, save
from pcam_lightning.runs import Run

WINDOWS = 50
"""Number of windows into which a run is divided to smooth its training loss."""


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
