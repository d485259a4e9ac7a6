"""Checks of the data: duplicates, leakage between splits, damage, and the demo set."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from pcam_lightning.checks.contents import (
    AuditReport,
    TrainSummary,
    read_audit,
    read_manifest,
    read_summary,
    setting,
)
from pcam_lightning.checks.inputs import COMMANDS, Folder, Inputs
from pcam_lightning.checks.outcome import Verdict, issue, not_applicable, passed, tip
from pcam_lightning.checks.training import DAMAGE
from pcam_lightning.data.findings import read_findings
from pcam_lightning.metrics.metrics import compute_metrics
from pcam_lightning.metrics.predictions import checked_predictions

if TYPE_CHECKING:
    import pandas as pd

EXACT = ("duplicate", "contradiction", "cross_split_duplicate")
"""Kinds of findings whose patches equal another patch."""
NEAR = ("near_duplicate", "cross_split_near_duplicate")
"""Kinds of findings whose patches show the same tissue as another patch, changed or shifted."""
COPIES = (*EXACT, *NEAR)
LEAKS = ("cross_split_duplicate", "cross_split_near_duplicate")
"""Kinds of findings whose patches show tissue of another split."""


def duplicates(folder: Folder, inputs: Inputs) -> Verdict:
    """Check that no tissue is in a file twice, or in two splits."""
    report = read_audit(folder)
    findings = _findings(folder)
    parts, serious = [], False
    for split, facts in report.splits.items():
        counts = {kind: len(rows_of(findings, split, [kind])) for kind in COPIES}
        if any(counts.values()):
            copies = len(rows_of(findings, split, COPIES))
            text = ", ".join(f"{count:,} {kind}" for kind, count in counts.items() if count)
            parts.append(
                f"{split} {text}, effective n {facts.rows - copies:,} of {facts.rows:,} "
                f"({_exact_and_near(findings, split)})"
            )
            serious |= any(counts[kind] for kind in (*LEAKS, "contradiction"))
    searched = report.near_duplicates is not None
    note = "" if searched else "; the audit did not search for near-duplicates"
    if not parts:
        shown = "no two patches show the same tissue" if searched else "no two patches are equal"
        return passed(shown + note, "findings.parquet")
    text = "; ".join(parts) + note
    return (issue if serious else tip)(text, "findings.parquet")


def scores_without_duplicates(folder: Folder, inputs: Inputs) -> Verdict:
    """Compare the test scores as released with the scores without repeated and leaked patches."""
    audit = inputs.audit_of(folder)
    if audit is None:
        return not_applicable(f"no audit of this data: `{COMMANDS['audit']}`", "manifest.json")
    where = "predictions/test.parquet"
    table = checked_predictions(folder.run.predictions("test"), folder.path / where)
    findings = _findings(audit)
    kept = table[~table["row"].isin(list(rows_of(findings, "test", COPIES)))]
    if len(kept) == len(table):
        return passed(f"none of the {len(table):,} test patches repeats another patch", where)
    if kept.empty:
        return issue(f"each of the {len(table):,} test patches repeats another patch", where)
    threshold = _threshold(folder)
    facts = "; ".join(
        f"{name} AUROC {scores['auroc']:.4f}, F2 {scores['f2']:.4f} on {len(part):,} patches"
        for name, part in (("as released", table), ("without duplicates", kept))
        for scores in [compute_metrics(part["label"], part["probability"], threshold)]
    )
    text = f"test {facts} (effective n {len(kept):,}; "
    text += f"{_exact_and_near(findings, 'test', set(table['row'].tolist()))})"
    leaked = rows_of(findings, "test", LEAKS)
    return (issue if leaked & set(table["row"].tolist()) else tip)(text, where)


def slide_overlap(folder: Folder, inputs: Inputs) -> Verdict:
    """Check that no slide has patches in two splits."""
    report = read_audit(folder)
    if not _slides_known(report):
        return not_applicable(
            "slides are not known: `python -m pcam_lightning.download root=FOLDER` fetches the "
            "meta files",
            "audit.json",
        )
    counts = report.findings.get("slide_overlap", {})
    shared = {split: count for split, count in counts.items() if count}
    if shared:
        text = ", ".join(f"{count:,} patches of {split}" for split, count in shared.items())
        return issue(f"slides are in several splits: {text}", "audit.json")
    return passed("no slide is in two splits", "audit.json")


def damage(folder: Folder, inputs: Inputs) -> Verdict:
    """Check that no blank or damaged patch was trained on."""
    data = read_summary(folder, TrainSummary).data
    cleaned = data.cleaning.get("train", {}).get("patches", 0)
    audit = inputs.audit_of(folder)
    if audit is None:
        if cleaned:
            return issue(f"{cleaned:,} training patches had values that were cleaned")
        return not_applicable(f"no audit of this data: `{COMMANDS['audit']}`", "manifest.json")
    config = read_manifest(folder).config
    if setting(config, "data.exclude") is not None:
        count = data.dropped.get("excluded", 0)
        return passed(f"{count:,} training patches were excluded by the findings of an audit")
    findings = _findings(audit)
    counts = {kind: len(rows_of(findings, "train", [kind])) for kind in DAMAGE}
    text = ", ".join(f"{count:,} {kind}" for kind, count in counts.items() if count)
    if not text:
        return passed("no training patch is blank or damaged")
    return issue(
        f"training patches with findings: {text}; leave them out with "
        f"data.exclude={audit.path / 'findings.parquet'}"
    )


def demo_data(folder: Folder, inputs: Inputs) -> Verdict:
    """Check that the data is not the generated demo set."""
    name = read_manifest(folder).dataset.name
    if name is None:
        return not_applicable(f"no data set is recorded: `{COMMANDS['train']}`", "manifest.json")
    if name == "demo":
        return tip(
            "the data is the generated demo set: its scores do not apply to real tissue; "
            "set data.root=FOLDER",
            "manifest.json",
        )
    return passed(f"data set {name}", "manifest.json")


def rows_of(findings: pd.DataFrame, split: str, kinds: Collection[str]) -> set[int]:
    """Return the rows of a split with findings of these kinds."""
    chosen = findings[(findings["split"] == split) & findings["kind"].isin(list(kinds))]
    return set(chosen["row"].tolist())


def _exact_and_near(findings: pd.DataFrame, split: str, rows: Collection[int] | None = None) -> str:
    """Count the copies of a split, or of some of its rows; a patch with both kinds is exact."""
    exact, all_copies = (rows_of(findings, split, kinds) for kinds in (EXACT, COPIES))
    if rows is not None:
        exact, all_copies = exact & set(rows), all_copies & set(rows)
    return f"{len(exact):,} exact and {len(all_copies - exact):,} near copies left out"


def _findings(audit: Folder) -> pd.DataFrame:
    return read_findings(audit.path / "findings.parquet")[0]


def _slides_known(report: AuditReport) -> bool:
    return any(facts.slides is not None for facts in report.splits.values())


def _threshold(folder: Folder) -> float:
    """Return the stored threshold of a run, 0.5 if none was chosen."""
    stored = folder.run.threshold
    return 0.5 if stored is None else stored.value
