"""Verdict: the result in a minute, and the doubts about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pcam_lightning.checks.outcome import Outcome, State
from pcam_lightning.checks.report import count_states
from pcam_lightning.errors import one_line, printable
from pcam_lightning.metrics.metrics import METRICS
from pcam_lightning.report.blocks import Block, Column, Section, Table, Text, Value
from pcam_lightning.report.records import METRIC, Records, source_of
from pcam_lightning.sweeps.jobs import count_states as count_jobs
from pcam_lightning.sweeps.table import Configuration, Result, at, deviation, number

FOLDERS = 3
"""Folders that a row of the checks names."""
SHOWN = (("val", METRIC), ("test", METRIC), ("test", "f2"), ("test", "accuracy"))
ROWS = 9
"""Largest number of rows about sweeps."""
NOTHING = "none among the inputs"


def build(records: Records, outcomes: Sequence[Outcome]) -> Section:
    counts = count_states(outcomes)
    blocks: list[Block] = []
    demo = sorted({each.name for each in records.every if each.is_demo})
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
    blocks += _by_check(outcomes, "issue", "Issues", names)
    blocks += _by_check(outcomes, "tip", "Tips", names)
    blocks.append(_all_outcomes(outcomes, names))
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
        rows.append(("threshold", one_line(f"{value:.4g} ({rule}), chosen by {threshold.name}")))
    twins = [each for each in records.of_kind("reproduce") if each.summary]
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
    """Return the best configuration with its scores, and those of other sweeps in a row each."""
    if records.leader is None:
        reason = records.sweeps[0].best[1] if records.sweeps else NOTHING
        return [("best configuration", f"none: {reason}")]
    rows = []
    for sweep in (records.leader, *(each for each in records.sweeps if each is not records.leader)):
        best, reason = sweep.best
        if best is None:
            rows.append((f"best of {sweep.name}", f"none: {reason}"))
            continue
        name = f"{best.name}, {best.seeds} seed{'s' * (best.seeds > 1)}, in {sweep.name}"
        if sweep is records.leader:
            rows.append(("best configuration", one_line(name)))
            rows += [(f"{split} {metric}", _mean(best, split, metric)) for split, metric in SHOWN]
        elif len(rows) < ROWS:
            score = _mean(best, "val", METRIC)
            rows.append(("another sweep", one_line(f"{name}: val {METRIC} {score}")))
    return rows


def _mean(best: Configuration, split: str, name: str) -> str:
    """Return the mean over seeds, or the score of a single run, beside the best constant."""
    values = best.scores(split, name)
    if len(values) > 1:
        text = f"{best.mean(split, name):.4f} ± {deviation(values):.4f} over seeds"
    else:
        text = _score(best.results[0], split, name)
    return text + _constant(best.results[0], split, name)


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


def _by_check(
    outcomes: Sequence[Outcome], state: State, title: str, names: Mapping[Path, str]
) -> list[Block]:
    """Return a row for each check with outcomes in a state: the first one, and where else."""
    groups: dict[str, list[Outcome]] = {}
    for each in outcomes:
        if each.state == state:
            groups.setdefault(each.code, []).append(each)
    rows: list[list[Value]] = []
    for code, members in groups.items():
        folders = [_name(each, names) for each in members]
        more = f" and {len(folders) - FOLDERS} more" if len(folders) > FOLDERS else ""
        facts = (members[0].title, len(members), members[0].text)
        rows.append([state, code, *facts, ", ".join(folders[:FOLDERS]) + more])
    if not rows:
        return []
    columns = [Column("state"), Column("code"), Column("subject"), Column("folders", "{:,}")]
    columns += [Column("figures of the first folder"), Column("where")]
    note = "docs/checks.md says what each code means, and when it may be ignored."
    return [Table(title, columns, rows, None, note)]


def _all_outcomes(outcomes: Sequence[Outcome], names: Mapping[Path, str]) -> Table:
    """Return a row for every check of every folder."""
    rows = [
        (each.state, each.code, each.title, each.text, each.file, _name(each, names))
        for each in outcomes
    ]
    headings = ("state", "code", "subject", "figures", "file", "folder")
    return Table("All checks", list(map(Column, headings)), rows, None, is_detail=True)


def _name(outcome: Outcome, names: Mapping[Path, str]) -> str:
    if outcome.folder is None:
        return "-"
    return names.get(outcome.folder, printable(str(outcome.folder)))
