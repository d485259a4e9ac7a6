"""Terminal output of a collection of benchmarks."""

from __future__ import annotations

import pandas as pd
from rich.box import SIMPLE
from rich.table import Table

from pcam_lightning.cli.terminal import Terminal
from pcam_lightning.errors import one_line
from pcam_lightning.sweeps.speeds import CASE, FIGURES


def print_speeds(console: Terminal, speeds: pd.DataFrame, dataset: str) -> None:
    """Print the place, the implementation and the speeds of each row."""
    table = Table(box=SIMPLE, title=f"dataset: {dataset}", title_justify="left")
    for column in ("partition", "node", "job", "contender", "case"):
        table.add_column(column, overflow="fold")
    for column in ("median", "lowest", "highest"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in speeds.to_dict("records"):
        names = [row[key] or "-" for key in ("partition", "node", "job_id", "contender")]
        names.append(" ".join(row[key] for key in CASE if row[key]) or "-")
        figures = ["-" if row[key] != row[key] else _count(row[key]) for key in FIGURES[:3]]
        table.add_row(*(one_line(name) for name in names), *figures)
    console.print(table)


def _count(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
