"""Configuration: the settings in which training runs differ, and the settings that all share."""

from __future__ import annotations

from pcam_lightning.report.blocks import Block, Column, Section, Table, Text, Value
from pcam_lightning.report.records import Records, source_of
from pcam_lightning.report.sections.missing import missing
from pcam_lightning.sweeps.table import Result

MAIN = ("model", "optimizer", "scheduler", "augment", "trainer", "data")
"""Groups of settings, the first of them first."""


def build(records: Records) -> Section:
    runs = records.of_kind("train")
    known = [(run, run.result) for run in runs if run.result.config]
    if not known:
        blocks: list[Block] = [missing("Configuration of training runs", "train")]
        return Section("configuration", "Configuration", blocks)
    keys = sorted({key for _, each in known for key in each.config}, key=_place)
    different = [key for key in keys if len({each.config.get(key) for _, each in known}) > 1]
    blocks = []
    source = source_of([run for run, _ in known], "manifest.json")
    if different:
        columns = [Column("run"), *map(Column, different)]
        rows: list[list[Value]] = [
            [run.name, *(_value(each, key) for key in different)] for run, each in known
        ]
        blocks.append(Table("Settings in which runs differ", columns, rows, source))
    elif len(known) > 1:
        blocks.append(Text(f"All {len(known)} training runs have the same settings."))
    equal = [[key, _value(known[0][1], key)] for key in keys if key not in different]
    columns = [Column("setting"), Column("value")]
    title = f"Settings of the run {runs[0].name}" if len(known) == 1 else "Settings of all runs"
    blocks.append(Table(title, columns, equal, source, is_detail=True))
    return Section("configuration", "Configuration", blocks)


def _place(key: str) -> tuple[int, str]:
    group = key.partition(".")[0]
    return (MAIN.index(group) if group in MAIN else len(MAIN), key)


def _value(result: Result, key: str) -> Value:
    """Return a setting, as a number if it is one, so that rows sort by it."""
    value = result.config.get(key)
    if value is None:
        return None
    try:
        return int(value) if value.lstrip("-").isdecimal() else float(value)
    except ValueError:
        return value
