"""Report of a collection: tables, pictures and a summary as files, and terminal output."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.box import SIMPLE
from rich.table import Table

from pcam_lightning.cli.terminal import Terminal
from pcam_lightning.collect.speeds import print_speeds
from pcam_lightning.errors import one_line
from pcam_lightning.files import atomic_write, write_json
from pcam_lightning.metrics.metrics import METRICS
from pcam_lightning.plots.sweep import plot_sweep
from pcam_lightning.runs.markdown import markdown
from pcam_lightning.runs.tables import csv_bytes, parquet_bytes
from pcam_lightning.slurm.usage import COLUMNS, describe_usage
from pcam_lightning.sweeps.best import best_configuration, expected_optimism
from pcam_lightning.sweeps.jobs import FAILURES, JobState, count_states
from pcam_lightning.sweeps.speeds import speeds_table
from pcam_lightning.sweeps.table import (
    SCORES,
    SPLITS,
    Configuration,
    Result,
    at,
    configurations_table,
    deviation,
    group_by_configuration,
    hidden_keys,
    mean,
    runs_table,
)

NO_ERROR = "no error message"


def write_collection(
    folder: Path,
    jobs: Sequence[JobState],
    metric: str,
    usage: Mapping[str, Mapping[str, float | None]] | None = None,
) -> dict[str, Any]:
    """Write and print the tables of jobs, write `summary.json`, and return the summary.

    `usage` has the resources of Slurm jobs, from `slurm.usage.job_usage`.

    Every collection has `runs` (a row per job) and `table`, as CSV and parquet. For `train`,
    `table` has a row per configuration, and `table.md` and `plots/` are written too. For
    `benchmark`, `table` has a row per measured implementation of each run.
    """
    results = [Result.of(job) for job in jobs]
    found = group_by_configuration(results)
    datasets = sorted({result.dataset for result in results if result.dataset}) or ["unknown"]
    summary: dict[str, Any] = {
        "sweeps": list(dict.fromkeys(str(job.sweep) for job in jobs)),
        "datasets": datasets,
        "jobs": len(jobs),
        "states": count_states(job.state for job in jobs),
        "failures": [
            {"folder": job.folder, "overrides": job.overrides, "state": job.state}
            | {"error": job.error, "log": job.log}
            for job in jobs
            if job.state in FAILURES
        ],
    }
    console = Terminal()
    dataset = one_line(", ".join(datasets))
    runs = runs_table(found)
    for name in COLUMNS if usage else ():
        runs[name] = [(usage or {}).get(job, {}).get(name) for job in runs["job_id"]]
    _write_table(folder / "runs", runs)
    speeds = speeds_table(results)
    if speeds is not None:
        _write_table(folder / "table", speeds)
        print_speeds(console, speeds, dataset)
    else:
        if keys := hidden_keys(found):
            line = f"runs with the same overrides differ in {', '.join(keys)}; each has its own row"
            print(one_line(f"warning: {line}"), file=sys.stderr)
        best, reason = best_configuration(found, metric)
        summary |= {"metric": metric, "settings": len(found)}
        summary |= {"champion": best and _describe(best), "reason": reason}
        optimism = best and expected_optimism(found, best, metric)
        summary["expected_optimism"] = optimism
        _write_table(folder / "table", configurations_table(found))
        text = _as_markdown(found, summary, best, dataset)
        atomic_write(folder / "table.md", text.encode(errors="replace"))
        plot_sweep(folder / "plots", found, metric, best, dataset)
        _print_configurations(console, found, metric, best, dataset)
        name = best.name if best else "none"
        console.print(one_line(f"best configuration: {name} ({reason})"), soft_wrap=True)
        if best:
            console.print(_describe_optimism(optimism, metric), soft_wrap=True)
    _print_jobs(console, jobs)
    if usage and (line := describe_usage(usage)):
        console.print(line, soft_wrap=True)
    write_json(folder / "summary.json", summary)
    return summary


def _describe(best: Configuration) -> dict[str, Any]:
    """Return the best configuration's scores, folders and checkpoints for the summary."""
    scores: dict[str, Any] = {split: {} for split in SPLITS}
    for split, name in SCORES:
        values = best.scores(split, name)
        scores[split][name] = {"mean": mean(values), "sd": deviation(values)}
    folders = [result.job.folder for result in best.results]
    checkpoints = [
        result.job.folder / path
        for result in best.results
        if isinstance(path := at(result.summary, "best_checkpoint"), str)
    ]
    return (
        {"setting": best.name, "values": best.values, "folders": folders}
        | scores
        | {"best_checkpoints": checkpoints}
    )


def _describe_optimism(optimism: float | None, metric: str) -> str:
    """Return a sentence on the best configuration's validation score."""
    if optimism is None:
        return (
            f"its validation {metric} is too optimistic, because it was selected by it; by how "
            "much is unknown with one seed"
        )
    return (
        f"its mean validation {metric} is too optimistic by up to {optimism:.4f}, because it was "
        "selected by it (expected if all configurations were equal); its test score is not"
    )


def _as_markdown(
    found: Sequence[Configuration],
    summary: dict[str, Any],
    best: Configuration | None,
    dataset: str,
) -> str:
    name = markdown(best.name) if best else "none"
    lines = [
        f"dataset: {markdown(dataset)}; {summary['states']}",
        "",
        f"best configuration: {name} ({markdown(summary['reason'])})",
    ]
    for split in SPLITS:
        lines += [
            "",
            f"| {split}, mean ± deviation | runs | {' | '.join(map(markdown, METRICS))} |",
        ]
        lines.append("|---" * (len(METRICS) + 2) + "|")
        for each in found:
            scores = [_number(each, split, name) for name in METRICS]
            lines.append(f"| {markdown(each.name)} | {_runs(each)} | {' | '.join(scores)} |")
    lines += ["", "! the mean of a constant predictor is at least as good"]
    for failure in summary["failures"]:
        error = failure["error"] or NO_ERROR
        log = f", log {markdown(failure['log'])}" if failure["log"] else ""
        job = f"{markdown(failure['folder'])} ({markdown(' '.join(failure['overrides']))})"
        lines += ["", f"{failure['state']}: {job}: {markdown(error)}{log}"]
    return "\n".join(lines) + "\n"


def _print_configurations(
    console: Terminal,
    found: Sequence[Configuration],
    metric: str,
    best: Configuration | None,
    dataset: str,
) -> None:
    table = Table(box=SIMPLE, title=f"dataset: {dataset}", title_justify="left")
    table.add_column("configuration", overflow="fold")
    columns = list(dict.fromkeys([("val", metric), ("test", metric), ("val", "f2")]))
    for column in ("runs", *(f"{split} {name}" for split, name in columns)):
        table.add_column(column, justify="right", no_wrap=True)
    for each in found:
        scores = [_number(each, split, name, 3) for split, name in columns]
        style = "bold" if each is best else None
        table.add_row(one_line(each.name), _runs(each), *scores, style=style)
    console.print(table)
    marked = {name for each in found for split, name in columns if _mark(each, split, name)}
    if marked:
        names = ", ".join(sorted(marked))
        console.print(f"! the mean of a constant predictor is at least as good: {names}")


def _print_jobs(console: Terminal, jobs: Sequence[JobState]) -> None:
    """Print a line for each failure, and the number of jobs in each state."""
    for job in jobs:
        if job.state in FAILURES:
            line = f"{job.state}: {job.folder} ({' '.join(job.overrides)}): {job.error or NO_ERROR}"
            line += f"; log: {job.log}" if job.log else ""
            console.print(one_line(line, 1000), soft_wrap=True)
    for job in jobs:
        if job.state in ("queued", "running") and job.job_id:
            place = (
                f" on {job.node}" if job.node else f" ({job.waits_for})" if job.waits_for else ""
            )
            line = f"{job.state}: job {job.job_id}{place}: {' '.join(job.overrides)}"
            console.print(one_line(line, 1000), soft_wrap=True)
    console.print(f"jobs: {count_states(job.state for job in jobs)}")


def _number(configuration: Configuration, split: str, name: str, digits: int = 4) -> str:
    """Return mean and deviation as text, with a mark if a constant is at least as good."""
    values = configuration.scores(split, name)
    if not len(values):
        return "-"
    spread = deviation(values)
    text = f"{mean(values):.{digits}f}" + ("" if math.isnan(spread) else f"±{spread:.{digits}f}")
    return text + _mark(configuration, split, name)


def _mark(configuration: Configuration, split: str, name: str) -> str:
    return "!" if name in configuration.beaten_by_constant(split) else ""


def _runs(configuration: Configuration) -> str:
    """Return the finished and all jobs as text, such as `2/3`."""
    states = [result.job.state for result in configuration.results]
    return f"{states.count('finished')}/{len(states)}"


def _write_table(stem: Path, table: pd.DataFrame) -> None:
    atomic_write(stem.with_suffix(".csv"), csv_bytes(table))
    atomic_write(stem.with_suffix(".parquet"), parquet_bytes(table))
