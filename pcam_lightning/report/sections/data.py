"""Data and leakage: the data sets of the inputs, and the findings of audits."""

from __future__ import annotations

from pcam_lightning.data.findings import KINDS
from pcam_lightning.report.blocks import Block, Column, Section, Table, Text, Value
from pcam_lightning.report.pictures import pictures_in
from pcam_lightning.report.records import DIGITS, Record, Records, source_of
from pcam_lightning.report.sections.missing import missing
from pcam_lightning.runs.files import RunFileError, read_json
from pcam_lightning.sweeps.table import at, number, text

SPLITS = ("train", "valid", "test")
CHARTS = {"intensity": "Intensity by class", "classes": "Patches by class"}
GALLERIES = {f"found_{kind}": f"Patches with {kind.replace('_', ' ')}" for kind in KINDS}


def build(records: Records) -> Section:
    blocks: list[Block] = []
    runs = [each for each in records.of_kind("train", "audit") if each.dataset]
    by_data: dict[tuple[str, str | None], list[Record]] = {}
    for each in runs:
        by_data.setdefault((str(each.dataset), each.folder.fingerprint), []).append(each)
    if by_data:
        columns = [Column("data set"), Column("fingerprint"), Column("folder"), Column("audited")]
        columns += [Column(f"{split} patches", "{:,.0f}") for split in SPLITS]
        columns.append(Column("runs", "{:,}"))
        rows = [_data_row(name, digest, each) for (name, digest), each in by_data.items()]
        source = source_of(runs, "manifest.json", "summary.json")
        blocks.append(Table("Data sets", columns, rows, source))
    audits = {each.folder.fingerprint: each for each in records.of_kind("audit")}  # the newest
    if not audits:
        blocks.append(missing("Audit", "audit"))
    for audit in audits.values():
        blocks += _audit(audit)
    return Section("data", "Data and leakage", blocks)


def _data_row(name: str, fingerprint: str | None, records: list[Record]) -> list[Value]:
    trained = [each for each in records if each.kind == "train"]
    rows = next((found for each in trained if (found := at(each.summary, "data", "rows"))), None)
    counts = [number(at(rows, split)) for split in SPLITS]
    audited = any(each.kind == "audit" for each in records)
    digest = None if fingerprint is None else fingerprint[:DIGITS]
    root = text(at(records[0].manifest, "dataset", "root"))
    return [name, digest, root, "yes" if audited else "no", *counts, len(trained)]


def _audit(audit: Record) -> list[Block]:
    try:
        report = read_json(audit.path / "audit.json")
    except RunFileError as error:
        return [Text(str(error), "warning")]
    source = audit.source("audit.json")
    splits = at(report, "splits")
    names = [str(each) for each in splits] if isinstance(splits, dict) else []
    columns = [Column("split"), Column("patches", "{:,.0f}"), Column("tumour", "{:.1%}")]
    columns += [Column("slides", "{:,.0f}"), Column("type"), Column("scale")]
    columns += [Column("mean intensity", "{:.1f}"), Column("AUROC of intensity", "{:.3f}")]
    rows: list[list[Value]] = []
    for name in names:
        facts = at(splits, name)
        patches = number(at(facts, "rows"))
        share = number(at(facts, "tumour")) / patches if patches else float("nan")
        row: list[Value] = [name, patches, share, number(at(facts, "slides"))]
        row += [text(at(facts, "storage", "dtype")), text(at(facts, "scale", "read_as"))]
        row += [number(at(facts, "intensity", key)) for key in ("mean", "label_auroc")]
        rows.append(row)
    blocks: list[Block] = [Table(f"Splits: {audit.name}", columns, rows, source)]
    findings = at(report, "findings")
    kinds = findings if isinstance(findings, dict) else {}
    rows = [
        [str(kind), *(number(at(counts, name)) for name in names), KINDS.get(str(kind), "")]
        for kind, counts in kinds.items()
        if any(number(at(counts, name)) > 0 for name in names)
    ]
    if rows:
        columns = [Column("finding"), *(Column(name, "{:,.0f}") for name in names)]
        columns.append(Column("meaning"))
        blocks.append(Table(f"Findings: {audit.name}", columns, rows, source))
    else:
        blocks.append(Text(f"The audit {audit.name} has no findings."))
    blocks += pictures_in(audit, CHARTS)
    return blocks + pictures_in(audit, GALLERIES, charts=False)
