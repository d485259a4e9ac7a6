"""Reproducibility: repeated runs, comparisons, and what the runs were made with."""

from __future__ import annotations

from collections.abc import Iterable

from pcam_lightning.report.blocks import Block, Column, Section, Table, Text
from pcam_lightning.report.pictures import pictures_in
from pcam_lightning.report.records import Record, Records, source_of
from pcam_lightning.report.sections.missing import missing
from pcam_lightning.sweeps.table import at, text

COMPARISONS = 3
"""Comparisons whose curves are shown, the newest first."""


def build(records: Records) -> Section:
    twins = [each for each in records.of_kind("reproduce") if each.summary]
    comparisons = records.of_kind("compare")
    blocks: list[Block] = []
    if twins:
        rows = [
            (
                each.name,
                text(at(each.summary, "run")),
                _yes(at(each.summary, "identical")),
                text(at(each.summary, "verdict")),
            )
            for each in twins
        ]
        columns = [Column("repetition"), Column("run"), Column("identical"), Column("verdict")]
        blocks.append(Table("Repeated runs", columns, rows, source_of(twins, "summary.json")))
    else:
        blocks.append(missing("Repetition of a run", "reproduce"))
    if comparisons:
        rows = []
        for each in comparisons:
            verdicts = at(each.summary, "verdict")
            for line in verdicts if isinstance(verdicts, list) else []:
                names = at(each.summary, "names")
                runs = ", ".join(map(str, names)) if isinstance(names, list) else None
                rows.append([each.name, runs, str(line)])
        columns = [Column("comparison"), Column("runs"), Column("verdict")]
        blocks.append(Table("Comparisons", columns, rows, source_of(comparisons, "summary.json")))
        for each in comparisons[: -COMPARISONS - 1 : -1]:
            blocks += pictures_in(each, {"curves": "Curves of compared runs"})
    blocks.append(_environments(records))
    return Section("reproducibility", "Reproducibility", blocks)


def _environments(records: Records) -> Table | Text:
    """Return a row for each environment in which training runs ran."""
    runs = records.of_kind("train")
    if not runs:
        return missing("Environments of training runs", "train")
    groups: dict[tuple[str | None, ...], list[Record]] = {}
    for each in runs:
        groups.setdefault(tuple(_environment(each)), []).append(each)
    names = ("commit", "Python", "torch", "lightning", "processor", "GPU", "deterministic")
    columns = [Column(name) for name in names] + [Column("runs", "{:,}"), Column("first run")]
    rows = [[*key, len(group), group[0].name] for key, group in groups.items()]
    note = "Every run folder holds all package versions in environment.txt."
    return Table(
        "Code, packages and machines of the training runs",
        columns, rows, source_of(runs, "manifest.json"), note,
    )  # fmt: skip


def _environment(run: Record) -> Iterable[str | None]:
    manifest = run.manifest
    yield run.commit
    yield text(at(manifest, "python", "version"))
    for package in ("torch", "lightning"):
        yield text(at(manifest, "packages", package))
    yield text(at(manifest, "hardware", "cpu"))
    gpus = at(manifest, "hardware", "gpus")
    yield ", ".join(map(str, gpus)) if isinstance(gpus, list) and gpus else "none"
    yield _yes(at(manifest, "determinism", "deterministic_algorithms"))


def _yes(value: object) -> str | None:
    return {True: "yes", False: "no"}.get(value) if isinstance(value, bool) else None
