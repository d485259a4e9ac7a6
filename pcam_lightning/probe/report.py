"""Results of a probe beside the run's metrics: few-shot curve, published scores, terminal."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from rich.box import SIMPLE
from rich.table import Table

from pcam_lightning.cli.terminal import Terminal
from pcam_lightning.files import atomic_write
from pcam_lightning.plots.few_shot import plot_few_shot
from pcam_lightning.probe import published
from pcam_lightning.probe.scores import Scores
from pcam_lightning.runs.tables import csv_bytes

NOT_COMPARABLE = (
    "published figures are of the official test split of 32,768 patches; only a score on this "
    "split can be compared with them"
)


def write_probe(folder: Path, scores: Scores, title: str) -> None:
    """Write `few_shot.csv` and `plots/few_shot.png`; nothing without few-shot fits."""
    if scores.few_shot:
        table = pd.DataFrame([each._asdict() for each in scores.few_shot])
        atomic_write(folder / "few_shot.csv", csv_bytes(table))
        plot_few_shot(folder / "plots" / "few_shot.png", table, title)


def write_published(folder: Path, summary: Mapping[str, Any], name: str) -> pd.DataFrame:
    """Write `published.csv`, with the run's own score among the published, and return it."""
    own = summary["test"]["metrics"][published.METRIC]["value"]
    rows = [{"backbone": f"{name} (this run)", "balanced_accuracy": own, "source": "this run"}]
    rows += [{**each._asdict(), "source": published.SOURCE} for each in published.SCORES]
    table = pd.DataFrame(rows).sort_values("balanced_accuracy", ascending=False, kind="stable")
    atomic_write(folder / "published.csv", csv_bytes(table))
    return table


def print_probe(summary: Mapping[str, Any], table: pd.DataFrame) -> None:
    """Print the chosen penalty, nearest neighbors, few-shot scores and published scores."""
    console, found = Terminal(), summary["probe"]
    tried, neighbors = found["penalties"], found["neighbors"]
    console.print(
        f"logistic regression: penalty {found['penalty']:g}, the best of {len(tried)} by "
        "validation AUROC",
        soft_wrap=True,
    )
    if neighbors:
        console.print(
            f"nearest neighbors: k = {neighbors['k']}, AUROC {_number(neighbors['val']['auroc'])} "
            f"on validation, {_number(neighbors['test']['auroc'])} on test",
            soft_wrap=True,
        )
    if found["few_shot"]:
        curve = Table(box=SIMPLE, title="few-shot test AUROC", title_justify="left")
        for column in ("patches per class", "mean", f"95% of {_draws(found)} draws"):
            curve.add_column(column, justify="right", no_wrap=True)
        for each in found["few_shot"]:
            interval = f"{_number(each['low'])}-{_number(each['high'])}"
            curve.add_row(str(each["patches"]), _number(each["mean"]), interval)
        console.print(curve)
    scores = Table(box=SIMPLE, title="linear probes, test", title_justify="left")
    scores.add_column("backbone", no_wrap=True)
    scores.add_column("balanced accuracy", justify="right", no_wrap=True)
    for backbone, value in table[["backbone", "balanced_accuracy"]].itertuples(index=False):
        scores.add_row(backbone, _number(value))
    console.print(scores)
    console.print(f"source: {published.SOURCE}; {published.RECIPE}", soft_wrap=True)
    patches = summary["test"]["rows"]
    if summary["dataset"] != "pcam" or patches != published.OFFICIAL_TEST_PATCHES:
        console.print(f"{NOT_COMPARABLE}; this one has {patches:,}", soft_wrap=True)


def _draws(found: Mapping[str, Any]) -> int:
    return found["few_shot"][0]["draws"]


def _number(value: float | None) -> str:
    return "undefined" if value is None or value != value else f"{value:.3f}"
