"""Few-shot curve: test score by the number of labeled patches."""

import os

import pandas as pd

from pcam_lightning.plots.style import BLUE, GRAY, new_figure, plain_number, save


def plot_few_shot(path: str | os.PathLike[str], table: pd.DataFrame, title: str) -> None:
    """Plot the mean test AUROC with the range of its draws by patches per class.

    Args:
        path: PNG to write, atomically.
        table: columns `patches`, `draws`, `mean`, `low` and `high`, at least one row.
        title: data set, for the line below the title.
    """
    figure, axes = new_figure("Few-shot test AUROC", "labeled patches per class", "AUROC")
    draws = int(table["draws"].iloc[0])
    axes.fill_between(
        table["patches"], table["low"], table["high"], color=BLUE, alpha=0.18, lw=0,
        label=f"95 % of {draws} draws",
    )  # fmt: skip
    axes.plot(table["patches"], table["mean"], "o-", color=BLUE, lw=2, ms=5, label="mean")
    axes.axhline(0.5, color=GRAY, ls="--", lw=1.2, label="any constant")
    axes.set_xscale("log")
    axes.set_xticks(table["patches"], [f"{each}" for each in table["patches"]])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(plain_number)
    axes.legend(loc="lower right", frameon=False)
    save(figure, path, title)
