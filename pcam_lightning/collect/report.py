"""What a collection says: tables as files, a summary, and lines for the terminal."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.box import SIMPLE
from rich.table import Table

from pcam_lightning.cli.terminal import Terminal
from pcam_lightning.collect.best import best_configuration
from pcam_lightning.collect.markdown import markdown
from pcam_lightning.collect.pictures import plot_sweep
from pcam_lightning.collect.speeds import print_speeds, speeds_table
from pcam_lightning.collect.table import (
    SCORES,
    SPLITS,
    Configuration,
    Result,
    at,
    deviation,
    hidden_keys,
    mean,
    runs_table,
    settings,
    settings_table,
)
from pcam_lightning.errors import one_line
from pcam_lightning.files import atomic_write, write_json
from pcam_lightning.metrics.metrics import METRICS
from pcam_lightning.runs.tables import csv_bytes, parquet_bytes
from pcam_lightning.slurm.jobs import FAILURES, JobState, count_states


def write_collection(folder: Path, jobs: Sequence[JobState], metric: str) -> dict[str, Any]:
    """Write tables, pictures and `summary.json` of jobs, print them, and return the summary.

    Of a sweep of `train`: `table` (a row a setting) and `runs` (a row a job), as CSV and parquet,
    `table.md` and `plots/`. Of `benchmark` runs: `table`, a row each contender of each run.
    """
    results = [Result.of(job) for job in jobs]
    found = settings(results)
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
    _write_table(folder / "runs", runs_table(found))
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
        _write_table(folder / "table", settings_table(found))
        text = _as_markdown(found, summary, best, dataset)
        atomic_write(folder / "table.md", text.encode(errors="replace"))
        plot_sweep(folder / "plots", found, metric, best, dataset)
        _print_settings(console, found, metric, best, dataset)
        name = f"champion: {best.name}" if best else "no champion"
        console.print(one_line(f"{name} ({reason})"), soft_wrap=True)
    _print_jobs(console, jobs)
    write_json(folder / "summary.json", summary)
    return summary


def _describe(best: Configuration) -> dict[str, Any]:
    """A champion for the summary."""
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


def _as_markdown(
    found: Sequence[Configuration],
    summary: dict[str, Any],
    best: Configuration | None,
    dataset: str,
) -> str:
    title = f"champion: {markdown(best.name)}" if best else "no champion"
    lines = [
        f"dataset: {markdown(dataset)}; {summary['states']}",
        "",
        f"{title} ({markdown(summary['reason'])})",
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
    lines += ["", "! a constant predictor does as well in the mean"]
    for failure in summary["failures"]:
        said = failure["error"] or "no error was left"
        log = f", log {markdown(failure['log'])}" if failure["log"] else ""
        where = f"{markdown(failure['folder'])} ({markdown(' '.join(failure['overrides']))})"
        lines += ["", f"{failure['state']}: {where}: {markdown(said)}{log}"]
    return "\n".join(lines) + "\n"


def _print_settings(
    console: Terminal,
    found: Sequence[Configuration],
    metric: str,
    best: Configuration | None,
    dataset: str,
) -> None:
    table = Table(box=SIMPLE, title=f"dataset: {dataset}", title_justify="left")
    table.add_column("setting", overflow="fold")
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
        console.print(f"! a constant does as well in the mean: {', '.join(sorted(marked))}")


def _print_jobs(console: Terminal, jobs: Sequence[JobState]) -> None:
    """Every failure in one line, and how many jobs are in each state."""
    for job in jobs:
        if job.state in FAILURES:
            said = job.error or "no error was left"
            line = f"{job.state}: {job.folder} ({' '.join(job.overrides)}): {said}"
            line += f"; log: {job.log}" if job.log else ""
            console.print(one_line(line, 1000), soft_wrap=True)
    console.print(f"jobs: {count_states(job.state for job in jobs)}")


def _number(setting: Configuration, split: str, name: str, digits: int = 4) -> str:
    """Mean and deviation, marked where a constant does as well."""
    values = setting.scores(split, name)
    if not len(values):
        return "-"
    spread = deviation(values)
    text = f"{mean(values):.{digits}f}" + ("" if math.isnan(spread) else f"±{spread:.{digits}f}")
    return text + _mark(setting, split, name)


def _mark(setting: Configuration, split: str, name: str) -> str:
    return "!" if name in setting.beaten_by_constant(split) else ""


def _runs(setting: Configuration) -> str:
    """Such as `2/3`: of three jobs, two have finished."""
    states = [result.job.state for result in setting.results]
    return f"{states.count('finished')}/{len(states)}"


def _write_table(stem: Path, table: pd.DataFrame) -> None:
    atomic_write(stem.with_suffix(".csv"), csv_bytes(table))
    atomic_write(stem.with_suffix(".parquet"), parquet_bytes(table))
