"""One table of the runs of `benchmark`, from several machines or partitions."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from rich.box import SIMPLE
from rich.table import Table

from pcam_lightning.cli.terminal import Terminal
from pcam_lightning.collect.table import Result, at, number, run_location, text
from pcam_lightning.errors import one_line

CASE = ("model", "batch_size", "precision", "device")
FIGURES = ("median", "low", "high", "of_first", "milliseconds", "waiting", "overhead")
FIGURES += ("share_of_flops", "share_of_bandwidth", "peak_host_mib", "peak_device_mib")


def speeds_table(results: Sequence[Result]) -> pd.DataFrame | None:
    """Return a row for each measured implementation of each run, None if no run is a benchmark."""
    rows = [
        {"folder": str(result.job.folder), "overrides": " ".join(result.job.overrides)}
        | run_location(result)
        | {name: text(at(result.summary, name)) for name in ("mode", "unit")}
        | {name: text(at(row, name)) for name in ("contender", *CASE, "device_name", "threads")}
        | {name: number(at(row, name)) for name in FIGURES}
        for result in results
        if isinstance(measured := result.summary.get("rows"), list)
        for row in measured
    ]
    return pd.DataFrame(rows) if rows else None


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
