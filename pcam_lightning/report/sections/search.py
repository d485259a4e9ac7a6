"""Search: the space that sweeps covered, the best configuration, and its threshold."""

from __future__ import annotations

from pcam_lightning.plots.sweep import figures_of
from pcam_lightning.report.blocks import Block, Column, Section, Table, Text, Value
from pcam_lightning.report.pictures import drawn
from pcam_lightning.report.records import METRIC, Record, Records, Sweep, source_of
from pcam_lightning.report.sections.missing import missing
from pcam_lightning.runs.files import RunFileError
from pcam_lightning.sweeps.best import expected_optimism

TITLES = {
    "seeds.png": "Scores by configuration",
    "effects.png": "Effect of each key",
    "parallel.png": "Parallel coordinates",
}
SHOWN = 12
"""Values of a key that are listed."""


def build(records: Records) -> Section:
    blocks: list[Block] = []
    searches = [each for each in records.sweeps if len(each.configurations) > 1]
    if not searches:
        blocks.append(missing("Sweep over settings", "sweep"))
    for sweep in searches:
        blocks += _search(records, sweep)
    blocks += _thresholds(records.of_kind("train"))
    return Section("search", "Search", blocks)


def _search(records: Records, sweep: Sweep) -> list[Block]:
    runs = records.records_of(sweep.results)
    if not runs:
        return [Text(f"{sweep.name}: no run has started.", "warning")]
    source = source_of(runs, "manifest.json", "summary.json")
    best, reason = sweep.best
    keys = list(sweep.configurations[0].values)
    rows: list[list[Value]] = []
    for key in keys:
        values = list(dict.fromkeys(each.values[key] for each in sweep.configurations))
        more = f" and {len(values) - SHOWN} more" if len(values) > SHOWN else ""
        tried = ", ".join(values[:SHOWN]) + more
        rows.append([key, len(values), tried, best.values[key] if best else None])
    columns = [Column("key"), Column("values", "{:,}"), Column("tried"), Column("best")]
    blocks: list[Block] = [Table(f"Space: {sweep.name}", columns, rows, source)]
    if best is None:
        blocks.append(Text(f"No best configuration: {reason}.", "warning"))
    else:
        blocks.append(Text(f"Best configuration: {best.name} ({reason}). {_optimism(sweep)}"))
    dataset = source.dataset
    for name, figure in figures_of(sweep.configurations, METRIC, best, dataset).items():
        blocks.append(drawn(TITLES[name], figure, source))
    return blocks


def _optimism(sweep: Sweep) -> str:
    best, _ = sweep.best
    assert best is not None
    value = expected_optimism(sweep.configurations, best, METRIC)
    if value is None:
        return "With one seed it is unknown how much of its lead is chance."
    return (
        f"Its mean validation {METRIC} is too optimistic by up to {value:.4f}, because it was "
        "selected by it; its test score is not."
    )


def _thresholds(runs: list[Record]) -> list[Block]:
    """Return the stored decision thresholds of runs."""
    rows: list[list[Value]] = []
    chosen: list[Record] = []
    blocks: list[Block] = []
    for run in runs:
        try:
            threshold = run.folder.run.threshold
        except RunFileError as error:
            blocks.append(Text(str(error), "warning"))
            continue
        if threshold is not None:
            chosen.append(run)
            values = (threshold.value, threshold.rule, threshold.temperature)
            rows.append([run.name, *values, threshold.prior_offset, threshold.tta])
    if not rows:
        return [*blocks, missing("Decision threshold", "evaluate")]
    columns = [Column("run"), Column("threshold"), Column("rule"), Column("temperature")]
    columns += [Column("prior offset"), Column("test-time augmentation")]
    source = source_of(chosen, "threshold.json")
    return [*blocks, Table("Decision thresholds", columns, rows, source)]
