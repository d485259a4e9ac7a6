"""Handover: exported models and bundles, and their comparison with PyTorch."""

from __future__ import annotations

from pcam_lightning.checks.inputs import Kind
from pcam_lightning.report.blocks import Block, Column, Section, Table, Value
from pcam_lightning.report.records import DIGITS, Record, Records, source_of
from pcam_lightning.report.sections.missing import missing
from pcam_lightning.sweeps.table import at, number, text

COMPARED = {
    "patches": "{:,.0f}",
    "largest_difference": "{:.1e}",
    "flipped_decisions": "{:,.0f}",
}
"""Figures of the comparison with PyTorch and their formats."""


def build(records: Records) -> Section:
    blocks: list[Block] = []
    kinds: dict[Kind, str] = {"export": "Exported models", "bundle": "Bundles"}
    for kind, title in kinds.items():
        found = records.of_kind(kind)
        rows = [row for each in found for row in _rows(each)]
        if rows:
            columns = [Column("folder"), Column("file"), Column("bytes", "{:,.0f}")]
            columns += [Column("run"), Column("weights")]
            columns += [Column(name.replace("_", " "), form) for name, form in COMPARED.items()]
            blocks.append(Table(title, columns, rows, source_of(found, "summary.json")))
        else:
            blocks.append(missing(title, kind))
    return Section("handover", "Handover", blocks)


def _rows(record: Record) -> list[list[Value]]:
    """Return a row for each model file or archive."""
    summary = record.summary
    if record.kind == "bundle":
        files = {text(at(summary, "archive")): at(summary, "model")}
    else:
        found = at(summary, "files")
        files = found if isinstance(found, dict) else {}
    digest = text(at(summary, "weights_digest"))
    rows: list[list[Value]] = []
    for name, compared in files.items():
        size = number(at(summary, "bytes")) if record.kind == "bundle" else _size(record, name)
        row: list[Value] = [record.name, text(name), size, text(at(summary, "run"))]
        row.append(digest and digest[:DIGITS])
        rows.append([*row, *(number(at(compared, key)) for key in COMPARED)])
    return rows


def _size(record: Record, name: object) -> float | None:
    if not isinstance(name, str) or "/" in name or "\0" in name:
        return None
    path = record.path / name
    return path.stat().st_size if path.is_file() else None
