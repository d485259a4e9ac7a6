"""Gradients and learning rate: curves of all runs, and numbers of each run."""

from __future__ import annotations

import numpy as np
import pandas as pd

from pcam_lightning.plots.comparison import History, plot_histories
from pcam_lightning.report.blocks import Block, Column, Section, Table, Text, Value
from pcam_lightning.report.pictures import drawn, pictures_in
from pcam_lightning.report.records import Record, Records, source_of
from pcam_lightning.report.sections.missing import missing
from pcam_lightning.runs.files import MissingRunFileError, RunFileError
from pcam_lightning.runs.growing_table import read_table

STEPS = ("loss", "norm", "norm_clipped", "lr", "rows")
CHARTS = {
    "gradient_norm": "Gradient norm",
    "gradient_layers": "Gradient norm by layer",
    "learning_rate": "Learning rate",
}
GALLERIES = {"gradient_spikes": "Patches behind gradient spikes"}


def build(records: Records) -> Section:
    blocks: list[Block] = []
    section = Section("gradients", "Gradients and learning rate", blocks)
    groups = {
        result.job.folder: configuration.name
        for sweep in records.sweeps
        for configuration in sweep.configurations
        for result in configuration.results
    }
    histories: dict[Record, History] = {}
    for run in records.of_kind("train"):
        try:
            metrics, steps = _metrics(run), _steps(run)
        except RunFileError as error:
            blocks.append(Text(str(error), "warning"))
            continue
        if len(metrics) or len(steps):
            histories[run] = History(groups.get(run.path, run.name), metrics, steps)
    if not histories:
        blocks.append(missing("Histories of training runs", "train"))
        return section
    source = source_of(list(histories), "metrics.csv", "gradients.parquet")
    figure = plot_histories(list(histories.values()))
    blocks.append(drawn("Curves of all training runs", figure, source))
    columns = [Column("run"), Column("steps", "{:,}"), Column("median norm")]
    columns += [Column("largest norm"), Column("spikes", "{:,.0f}"), Column("clipped", "{:.1%}")]
    columns += [Column("highest rate"), Column("last rate"), Column("loss, first tenth")]
    columns.append(Column("loss, last tenth"))
    rows = [[run.name, *_numbers(each.steps)] for run, each in histories.items() if len(each.steps)]
    if rows:
        source = source_of(list(histories), "gradients.parquet")
        blocks.append(Table("Gradients by run", columns, rows, source))
    if records.representative is not None:
        blocks += pictures_in(records.representative, CHARTS)
        blocks += pictures_in(records.representative, GALLERIES, charts=False)
    return section


def _metrics(run: Record) -> pd.DataFrame:
    try:
        return run.folder.run.metrics
    except MissingRunFileError:
        return pd.DataFrame()


def _steps(run: Record) -> pd.DataFrame:
    """Return the numbers of every step, and whether its norm was a spike."""
    try:
        table = read_table(run.path / "gradients.parquet", STEPS).to_pandas()
    except MissingRunFileError:
        return pd.DataFrame()
    if "rows" in table:
        table["rows"] = table["rows"].notna()
    return table


def _numbers(steps: pd.DataFrame) -> list[Value]:
    """Return a row of numbers, None for a column that the run has not recorded."""
    columns = {name: steps[name].to_numpy(float) for name in steps if name != "rows"}
    norm, after, rate, loss = (columns.get(key) for key in ("norm", "norm_clipped", "lr", "loss"))
    spikes = float(steps["rows"].to_numpy(bool).sum()) if "rows" in steps else None
    tenth = max(1, len(steps) // 10)
    return [
        len(steps),
        None if norm is None else float(np.median(norm)),
        None if norm is None else float(norm.max()),
        spikes,
        None if norm is None or after is None else float(np.mean(after < norm * (1 - 1e-6))),
        None if rate is None else float(rate.max()),
        None if rate is None else float(rate[-1]),
        None if loss is None else float(loss[:tenth].mean()),
        None if loss is None else float(loss[-tenth:].mean()),
    ]
