"""Runs of `benchmark`, from several machines or partitions, in one table."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pcam_lightning.collection.table import Result, at, number, where_it_ran
from pcam_lightning.collection.text import one_line

SPEEDS = ["median", "low", "high", "of_first"]


def speeds_table(results: Sequence[Result]) -> pd.DataFrame | None:
    """One row a contender of a run, with patches per second; None where no run is a benchmark."""
    rows = [
        {"folder": str(result.job.folder), "overrides": " ".join(result.job.overrides)}
        | where_it_ran(result)
        | {"mode": str(at(result.summary, "mode")), "contender": str(at(row, "contender"))}
        | {name: number(at(row, name)) for name in SPEEDS}
        for result in results
        if isinstance(measured := result.summary.get("rows"), list)
        for row in measured
    ]
    return pd.DataFrame(rows) if rows else None


def print_speeds(console: Console, speeds: pd.DataFrame, dataset: str) -> None:
    table = Table(box=SIMPLE, title=f"dataset: {escape(dataset)}", title_justify="left")
    for column in ("partition", "node", "job", "patches per second"):
        table.add_column(column, overflow="fold")
    for column in ("median", "lowest", "highest"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in speeds.to_dict("records"):
        names = [row[key] or "-" for key in ("partition", "node", "job_id", "contender")]
        figures = [f"{row[key]:,.0f}" for key in ("median", "low", "high")]
        table.add_row(*(escape(one_line(name)) for name in names), *figures)
    console.print(table)
