"""Throughput: training speed by partition, and benchmarks with their job ids."""

from __future__ import annotations

import statistics

from pcam_lightning.report.blocks import Block, Column, Section, Table, Text, Value
from pcam_lightning.report.pictures import pictures_in
from pcam_lightning.report.records import Record, Records, source_of
from pcam_lightning.report.sections.missing import missing
from pcam_lightning.sweeps.speeds import CASE, speeds_table
from pcam_lightning.sweeps.table import Result, at, number, run_location

FIGURES = {
    "median": "{:,.1f}", "low": "{:,.1f}", "high": "{:,.1f}", "of_first": "{:.3g}",
    "milliseconds": "{:.2f}", "waiting": "{:.1%}", "overhead": "{:.1%}",
    "peak_host_mib": "{:,.0f}", "peak_device_mib": "{:,.0f}",
}  # fmt: skip
"""Figures of a benchmark and their formats."""
BENCHMARKS = 3
"""Benchmarks whose plots are shown, the newest first."""
JOBS = 12
"""Job ids that a cell lists."""


def build(records: Records) -> Section:
    blocks: list[Block] = []
    results = [each for sweep in records.sweeps for each in sweep.results]
    measured = [each for each in results if _speed(each) > 0]
    if measured:
        blocks.append(_training(records, measured))
    else:
        blocks.append(missing("Speed of training runs", "train"))
    benchmarks = records.of_kind("benchmark")
    if benchmarks:
        blocks += _benchmarks(benchmarks)
    else:
        blocks.append(missing("Benchmarks", "benchmark"))
    return Section("throughput", "Throughput", blocks)


def _training(records: Records, results: list[Result]) -> Table:
    """Return the speed of training by partition, node and model, with job ids."""
    groups: dict[tuple[str | None, ...], list[Result]] = {}
    for each in results:
        place = run_location(each)
        model = at(each.manifest, "config", "model", "_target_")
        model = str(model).rpartition(".")[2] if model else None
        key = (place["partition"] or "no Slurm", place["node"], model)
        groups.setdefault(key, []).append(each)
    columns = [Column("partition"), Column("node"), Column("model"), Column("runs", "{:,}")]
    columns += [Column("patches/s, median", "{:,.1f}"), Column("lowest", "{:,.1f}")]
    columns += [Column("highest", "{:,.1f}"), Column("waiting for data", "{:.1%}"), Column("jobs")]
    rows: list[list[Value]] = []
    for key, members in groups.items():
        speeds = [_speed(each) for each in members]
        waiting = [number(at(each.summary, "waiting_for_data")) for each in members]
        jobs = [job for each in members if (job := run_location(each)["job_id"])]
        listed = ", ".join(jobs[:JOBS]) + (f" and {len(jobs) - JOBS} more" * (len(jobs) > JOBS))
        figures = (statistics.median(speeds), min(speeds), max(speeds), statistics.median(waiting))
        rows.append([*key, len(members), *figures, listed or None])
    source = source_of(records.records_of(results), "summary.json", "manifest.json")
    return Table("Training speed by partition", columns, rows, source)


def _benchmarks(records: list[Record]) -> list[Block]:
    table = speeds_table([each.result for each in records])
    if table is None:
        return [Text("The benchmarks have no measured case.", "warning")]
    names = {str(each.path): each.name for each in records}
    texts = ["mode", "unit", "partition", "node", "job_id", "contender", *CASE]
    columns = [Column("benchmark"), *(Column(name.replace("_", " ")) for name in texts)]
    columns += [Column(name.replace("_", " "), each) for name, each in FIGURES.items()]
    rows: list[list[Value]] = [
        [names[row["folder"]], *(row[name] for name in texts), *(row[name] for name in FIGURES)]
        for row in table.to_dict("records")
    ]
    source = source_of(records, "summary.json")
    blocks: list[Block] = [Table("Benchmarks", columns, rows, source)]
    for each in records[: -BENCHMARKS - 1 : -1]:
        said = at(each.summary, "said")
        blocks += [Text(f"{each.name}: {line}") for line in said] if isinstance(said, list) else []
        plots = {path.stem: "Benchmark" for path in sorted((each.path / "plots").glob("*.png"))}
        blocks += pictures_in(each, plots)
    return blocks


def _speed(result: Result) -> float:
    return number(at(result.summary, "training_patches_per_second"))
