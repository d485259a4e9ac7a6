"""Verdict: the result in a minute, and the doubts about it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pcam_lightning.checks.outcome import Outcome, State
from pcam_lightning.checks.report import count_states
from pcam_lightning.errors import one_line, printable
from pcam_lightning.metrics.metrics import METRICS
from pcam_lightning.report.blocks import Block, Column, Section, Table, Text, Value
from pcam_lightning.report.records import METRIC, Records, source_of
from pcam_lightning.sweeps.jobs import count_states as count_jobs
from pcam_lightning.sweeps.table import Result, at, deviation, number

SHOWN = 3
"""Folders that a row of the checks names."""
HEADLINE = ("auroc", "f2", "accuracy")
OTHERS = "Checks that passed or do not apply"
NOTHING = "none among the inputs"


def build(records: Records, outcomes: Sequence[Outcome]) -> Section:
    counts = count_states(outcomes)
    blocks: list[Block] = []
    demo = sorted({each.name for each in records.every if each.dataset == "demo"})
    if demo:
        blocks.append(
            Text(
                f"{len(demo)} of {len(records.every)} folders use the generated demo set. Their "
                "scores say nothing about real tissue.",
                "warning",
            )
        )
    blocks.append(_glance(records))
    blocks.append(
        Text(
            f"Checks: {counts['issue']} issues, {counts['tip']} tips, {counts['passed']} passed, "
            f"{counts['not applicable']} not applicable. An issue may make a result wrong or a "
            "claim unsupported; a tip may improve the next run."
        )
    )
    names = {each.path: each.name for each in records.every}
    names |= {each.folder.path: each.name for each in records.sweeps}
    groups: dict[str, tuple[State, ...]] = {
        "Issues": ("issue",),
        "Tips": ("tip",),
        OTHERS: ("passed", "not applicable"),
    }
    for title, states in groups.items():
        blocks += _outcomes(outcomes, states, title, names, title == OTHERS)
    return Section("verdict", "Verdict", blocks)


def _glance(records: Records) -> Table:
    """Return the facts that a reader looks for first."""
    results = [each for sweep in records.sweeps for each in sweep.results]
    rows: list[tuple[str, str]] = []
    datasets = {each.dataset: None for each in records.every if each.dataset}
    rows.append(("data", ", ".join(datasets) or "not recorded"))
    states = count_jobs(each.job.state for each in results)
    rows.append(("training runs", states or NOTHING))
    rows += _model(records)
    run = records.representative
    threshold = next(
        (each for each in records.of_kind("evaluate")[::-1] if at(each.summary, "threshold")), None
    )
    if threshold is not None:
        value = number(at(threshold.summary, "threshold", "value"))
        rule = at(threshold.summary, "threshold", "rule")
        rows.append(("threshold", one_line(f"{value:.4g} ({rule})")))
    twins = records.of_kind("reproduce")
    same = sum(at(each.summary, "identical") is True for each in twins)
    text = f"{same} of {len(twins)} repetitions are identical, bit for bit" if twins else NOTHING
    rows.append(("reproduced", text))
    exports = records.of_kind("export", "bundle")
    rows.append(("exported", ", ".join(each.name for each in exports) or NOTHING))
    found = records.of_kind("train", "reproduce", "evaluate", "export", "bundle") or records.every
    source = source_of([run] if run else list(found), "summary.json")
    columns = [Column("question"), Column("answer")]
    return Table("At a glance", columns, [list(row) for row in rows], source)


def _model(records: Records) -> list[tuple[str, str]]:
    """Return the best configuration, or the best run, with its scores."""
    for sweep in records.sweeps:
        best, _ = sweep.best
        if best is None:
            continue
        title = "best configuration" if len(sweep.configurations) > 1 else "configuration"
        rows = [(title, one_line(f"{best.name}, {best.seeds} seed{'s' * (best.seeds > 1)}"))]
        for split, name in (("val", METRIC), *(("test", name) for name in HEADLINE)):
            values = best.scores(split, name)
            if len(values) > 1:
                text = f"{best.mean(split, name):.4f} ± {deviation(values):.4f} over seeds"
            else:
                text = _score(best.results[0], split, name)
            rows.append((f"{split} {name}", text + _constant(best.results[0], split, name)))
        return rows
    return [
        (
            "best configuration",
            "none: " + (records.sweeps[0].best[1] if records.sweeps else NOTHING),
        )
    ]


def _score(result: Result, split: str, name: str) -> str:
    """Return a metric of a run with its interval."""
    score = at(result.summary, split, "metrics", name)
    low, high = number(at(score, "low")), number(at(score, "high"))
    interval = f" [{low:.4f}, {high:.4f}]" if low == low and high == high else ""
    value = result.score(split, name)
    return f"{value:.4f}{interval}" if value == value else "not recorded"


def _constant(result: Result, split: str, name: str) -> str:
    """Return the best constant predictor's value, as text in parentheses."""
    values = [each[name] for each in result.constants(split).values() if each[name] == each[name]]
    if not values:
        return ""
    best = max(values) if METRICS[name] == "higher" else min(values)
    return f" (best constant {best:.4f})"


def _outcomes(
    outcomes: Sequence[Outcome],
    states: Sequence[State],
    title: str,
    names: dict[Path, str],
    is_detail: bool,
) -> list[Block]:
    """Return a row for each check and figures, with the folders that share them."""
    groups: dict[tuple[str, str, str, str], list[str]] = {}
    for each in outcomes:
        if each.state in states:
            folders = groups.setdefault((each.state, each.code, each.title, each.text), [])
            if each.folder is not None:
                folders.append(names.get(each.folder, printable(str(each.folder))))
    rows: list[list[Value]] = []
    for (state, code, subject, text), folders in groups.items():
        more = f" and {len(folders) - SHOWN} more" if len(folders) > SHOWN else ""
        rows.append([state, code, subject, text, ", ".join(folders[:SHOWN]) + more])
    if not rows:
        return []
    columns = [Column(name) for name in ("state", "code", "subject", "figures", "folders")]
    note = "docs/checks.md says what each code means, and when it may be ignored."
    return [Table(title, columns, rows, None, note if not is_detail else "", is_detail)]
