"""Report of a benchmark: tables as files and on the terminal, and saturation points."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.box import SIMPLE
from rich.table import Table

from pcam_lightning.cli.terminal import Terminal
from pcam_lightning.files import atomic_write
from pcam_lightning.runs.tables import csv_bytes

Row = Mapping[str, Any]

SATURATED = 0.95
"""Share of the highest speed that defines the saturation point."""


def _speed(row: Row) -> str:
    """Return the median, and half the range from lowest to highest in percent of the median."""
    median = row["median"]
    text = f"{median:,.0f}" if median >= 100 else f"{median:.3g}"
    return f"{text} ±{(row['high'] - row['low']) / 2 / median:.0%}"


COLUMNS: dict[str, tuple[str, Callable[[Row], str]]] = {
    "contender": ("", lambda row: row["contender"]),
    "model": ("model", lambda row: row["model"]),
    "batch_size": ("batch", lambda row: str(row["batch_size"])),
    "precision": ("precision", lambda row: row["precision"]),
    "device": ("device", lambda row: row["device"]),
    "median": ("{unit}", _speed),
    "of_first": ("of first", lambda row: f"{row['of_first']:.3g}"),
    "milliseconds": ("ms a step", lambda row: f"{row['milliseconds']:.2f}"),
    "waiting": ("waiting", lambda row: f"{row['waiting']:.1%}"),
    "share_of_flops": ("of peak", lambda row: f"{row['share_of_flops']:.0%}"),
    "peak_host_mib": ("host MiB", lambda row: f"{row['peak_host_mib']:,.0f}"),
    "peak_device_mib": ("device MiB", lambda row: f"{row['peak_device_mib']:,.0f}"),
}
"""Heading and cell text of the columns for people, by key. The CSV has every key of the rows."""


def write_tables(folder: Path, rows: Sequence[Row], unit: str) -> None:
    """Write `table.csv` with every number, and `table.md` for people."""
    atomic_write(folder / "table.csv", csv_bytes(pd.DataFrame(rows, dtype=object)))
    headings, cells = _headings_and_cells(rows, unit)
    lines = [headings, ["---"] * len(headings), *cells]
    text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    atomic_write(folder / "table.md", text.encode())


def print_report(rows: Sequence[Row], summary: Mapping[str, Any]) -> None:
    """Print the table, then the messages of the summary."""
    console = Terminal()
    console.width = max(console.width, 200)  # wide enough for every column in a log file
    table = Table(box=SIMPLE, title=f"dataset: {summary['dataset']}", title_justify="left")
    headings, cells = _headings_and_cells(rows, summary["unit"])
    for position, heading in enumerate(headings):
        table.add_column(heading, justify="right" if position else "left", no_wrap=True)
    for line in cells:
        table.add_row(*line)
    console.print(table)
    for line in summary["said"]:
        console.print(line, soft_wrap=True)


def saturation_points(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the smallest batch with 95 % of the highest speed for each series of batch sizes."""
    points = []
    for (contender, model, precision, device), series in series_of(rows).items():
        if len(series) > 1:
            best = max(row["median"] for row in series)
            row = next(row for row in series if row["median"] >= SATURATED * best)
            names = {"contender": contender, "model": model}
            names |= {"precision": precision, "device": device}
            points.append(names | {"batch_size": row["batch_size"], "median": row["median"]})
    return points


def series_of(rows: Sequence[Row]) -> dict[tuple[str, str, str, str], list[Row]]:
    """Return rows that differ in the batch size only, by implementation, model, precision, device.

    Each series starts with the smallest batch and has no out-of-memory rows.
    """
    series: dict[tuple[str, str, str, str], list[Row]] = {}
    for row in sorted(rows, key=lambda row: row["batch_size"]):
        if row["median"] is not None:
            key = (row["contender"], row["model"], row["precision"], row["device"])
            series.setdefault(key, []).append(row)
    return series


def _headings_and_cells(rows: Sequence[Row], unit: str) -> tuple[list[str], list[list[str]]]:
    """Return headings and cells, without empty columns and without constant choices."""
    names = [
        name
        for name in COLUMNS
        if any(row.get(name) is not None for row in rows)
        and (name in ("contender", "median") or not _is_constant_choice(name, rows))
    ]
    headings = [COLUMNS[name][0].format(unit=unit) for name in names]
    cells = [[_cell(name, row) for name in names] for row in rows]
    return headings, cells


def _is_constant_choice(name: str, rows: Sequence[Row]) -> bool:
    choices = ("model", "batch_size", "precision", "device")
    return name in choices and len({row.get(name) for row in rows}) == 1


def _cell(name: str, row: Row) -> str:
    if row.get(name) is None:
        return "out of memory" if name == "median" else "-"
    return COLUMNS[name][1](row)
