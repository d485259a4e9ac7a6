"""Plots of a training's history: metrics by epoch, and patches of gradient spikes."""

from pathlib import Path

import numpy as np

from pcam_lightning.data import PCamDataModule
from pcam_lightning.data.files import read_labels
from pcam_lightning.plots.galleries import plot_gallery
from pcam_lightning.plots.history import plot_curves
from pcam_lightning.runs import Run
from pcam_lightning.runs.run import MissingRunFileError


def plot_history(folder: Path, datamodule: PCamDataModule, dataset_name: str) -> None:
    """Draw the logged curves of a run, and the patches of its largest gradient spikes."""
    plot_curves(Run(folder), folder / "plots")
    plot_spikes(folder, datamodule, f"gradient spikes, dataset: {dataset_name}")


def plot_spikes(
    folder: Path, datamodule: PCamDataModule, title: str, spikes: int = 3, patches: int = 8
) -> None:
    """Plot the patches with the highest loss in the largest gradient spikes, if there are any."""
    try:
        table = Run(folder).gradients
    except MissingRunFileError:
        return
    table = table[table["rows"].notna()] if "rows" in table else table.iloc[:0]
    if table.empty:
        return
    # A norm that is not finite counts as infinite.
    times = np.where(np.isfinite(table["norm"]), table["norm"] / table["median"], np.inf)
    table = table.assign(times=times)
    table = table.sort_values("times", ascending=False, kind="stable").head(spikes)
    patches = min(patches, *map(len, table["rows"]))
    labels = read_labels(datamodule.files("train"))
    captions = [
        f"step {step}: {times:.1f} x median\nrow {row}: "
        f"{'tumour' if labels[row] else 'normal'}\nloss {loss:.2f}"
        for step, times, rows, losses in table[["step", "times", "rows", "losses"]].to_numpy()
        for row, loss in zip(rows[:patches], losses[:patches], strict=True)
    ]
    rows = np.concatenate([rows[:patches] for rows in table["rows"]])
    pixels = datamodule.datasets["train"].pixels[rows]
    plot_gallery(folder / "plots" / "gradient_spikes.png", pixels, captions, title, patches)
