"""Slices and errors: what evaluations found out about a model's mistakes."""

from __future__ import annotations

from pcam_lightning.metrics.interval_text import describe_interval
from pcam_lightning.metrics.metrics import METRICS
from pcam_lightning.report.blocks import Block, Column, Section, Table, Text, Value
from pcam_lightning.report.pictures import pictures_in
from pcam_lightning.report.records import Record, Records
from pcam_lightning.report.sections.missing import missing
from pcam_lightning.sweeps.table import at, number, text

EVALUATIONS = 3
"""Evaluations that are shown in full, the newest first; the others are named."""


def build(records: Records) -> Section:
    blocks: list[Block] = []
    evaluations = records.of_kind("evaluate")[::-1]
    if not evaluations:
        blocks.append(missing("Evaluation", "evaluate"))
    for each in evaluations[:EVALUATIONS]:
        blocks += _evaluation(each)
    if older := evaluations[EVALUATIONS:]:
        names = ", ".join(each.name for each in older)
        blocks.append(Text(f"Not shown, older evaluations: {names}."))
    return Section("errors", "Slices and errors", blocks)


def _evaluation(record: Record) -> list[Block]:
    summary, source = record.summary, record.source("summary.json")
    split = str(at(summary, "split"))
    scores, threshold = at(summary, split), at(summary, "threshold")
    rows: list[list[Value]] = []
    for name in METRICS:
        score = at(scores, "metrics", name)
        ends = [number(at(score, key)) for key in ("value", "low", "high")]
        constant = number(at(scores, "baselines", "all_tumour", name))
        rows.append([name, *ends, constant])
    columns = [Column("metric"), Column(split, "{:.4f}"), Column("from", "{:.4f}")]
    columns += [Column("to", "{:.4f}"), Column("all tumour", "{:.4f}")]
    slides = at(scores, "interval", "slides")
    note = f"Threshold {number(at(threshold, 'value')):.4g} ({text(at(threshold, 'rule'))}). "
    note += f"95 % intervals {describe_interval(slides if isinstance(slides, int) else None)}."
    blocks: list[Block] = [
        Table(f"Metrics at the chosen threshold: {record.name}", columns, rows, source, note),
        _calibration(record),
        *_slices(record, split),
    ]
    charts = {
        "threshold_val": "Choice of the threshold",
        f"reliability_{split}": "Calibration",
        f"slices_{split}": "Slices",
        f"coverage_{split}": "Accuracy by share of decided patches",
    }
    blocks += pictures_in(record, charts)
    return blocks + pictures_in(record, _galleries(record), charts=False)


def _calibration(record: Record) -> Table:
    found = at(record.summary, "calibration")
    rows: list[list[Value]] = []
    for name in ("before", "after"):
        error = at(found, name, "ece")
        values = [number(at(error, key)) for key in ("value", "low", "high", "if_perfect")]
        if at(found, name):
            rows.append([name, *values, number(at(found, name, "brier"))])
    columns = [Column("calibration"), Column("error", "{:.4f}"), Column("from", "{:.4f}")]
    columns += [Column("to", "{:.4f}"), Column("if perfect", "{:.4f}"), Column("Brier", "{:.4f}")]
    note = text(at(found, "note")) or ""
    return Table(f"Calibration: {record.name}", columns, rows, record.source("summary.json"), note)


def _slices(record: Record, split: str) -> list[Block]:
    found = at(record.summary, "slices")
    worse = at(found, "worse")
    worse = worse if isinstance(worse, list) else []
    scored = number(at(found, "scored"))
    text_ = f"{len(worse)} of {scored:.0f} slices of {split} are worse than the whole split"
    if at(found, "slides_known") is not True:
        text_ += ", if patches are independent (slides are not known)"
    blocks: list[Block] = [Text(f"{text_}.")]
    rows: list[list[Value]] = []
    for each in worse:
        metrics = at(each, "metrics")
        named = ", ".join(map(str, metrics)) if isinstance(metrics, list) else None
        rows.append([text(at(each, "property")), text(at(each, "slice")), named,
                     text(at(each, "note"))])  # fmt: skip
    if rows:
        columns = [Column("property"), Column("slice"), Column("worse at"), Column("note")]
        source = record.source("summary.json", "slices.csv")
        blocks.append(Table(f"Weak slices: {record.name}", columns, rows, source))
    return blocks


def _galleries(record: Record) -> dict[str, str]:
    """Return the galleries of an evaluation: file name to title."""
    found = at(record.summary, "galleries")
    names = [each for each in found if each != "left_out"] if isinstance(found, dict) else []
    # A name from the file is no path.
    names = [each for each in names if each.replace("_", "").isalnum()]
    titles = {}
    for each in names:
        titles[each] = each.replace("_", " ").capitalize()
        titles[f"{each}_attribution"] = f"{titles[each]}, attribution"
    return titles
