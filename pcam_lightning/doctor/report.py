"""Report of an examination: a table, the mending commands, and a summary."""

from typing import Any

from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

from pcam_lightning.cli.terminal import Terminal
from pcam_lightning.doctor.examination import Findings
from pcam_lightning.doctor.finding import LEVELS, Level


def count_levels(findings: Findings) -> dict[Level, int]:
    """Return the number of findings of each level."""
    levels = [each.level for area in findings.values() for each in area]
    return {level: levels.count(level) for level in LEVELS}


def summarize(findings: Findings) -> dict[str, Any]:
    """Return the worst level, the counts, and every finding, as plain containers."""
    counts = count_levels(findings)
    return {
        "level": next((level for level in reversed(LEVELS) if counts[level]), "green"),
        "counts": counts,
        "findings": [
            {"area": area} | vars(each) for area, every in findings.items() for each in every
        ],
    }


def print_findings(findings: Findings) -> None:
    """Print a table of all findings, and below it the commands that mend them, red ones first."""
    console = Terminal()
    table = Table(box=SIMPLE, show_edge=False)
    for title in ("area", "finding", "level"):
        table.add_column(title)
    table.add_column("fact", overflow="fold")
    for area, every in findings.items():
        for number, each in enumerate(every):
            level = Text(each.level, style=each.level)
            last = number == len(every) - 1
            table.add_row("" if number else area, each.name, level, each.fact, end_section=last)
    console.print(table)
    mends = [
        (level, each) for level in ("red", "yellow") for every in findings.values()
        for each in every if each.level == level and each.mend
    ]  # fmt: skip
    if mends:
        console.print("to mend:")
    for level, each in mends:
        console.print(
            Text(f"  {level} {each.name}: ", style=level) + f"{each.mend}", soft_wrap=True
        )
    counts = count_levels(findings)
    console.print(", ".join(f"{level}: {counts[level]}" for level in LEVELS))
