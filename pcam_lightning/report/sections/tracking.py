"""Tracking: scores of all runs, metrics beside constant predictors, and the evidence."""

from __future__ import annotations

from pcam_lightning.metrics.interval_text import describe_interval
from pcam_lightning.metrics.metrics import METRICS
from pcam_lightning.report.blocks import Block, Column, Section, Table, Text, Value
from pcam_lightning.report.pictures import pictures_in
from pcam_lightning.report.records import DIGITS, Record, Records, Sweep, source_of
from pcam_lightning.report.sections.missing import missing
from pcam_lightning.sweeps.table import Result, at, deviation, number, run_location, text

SCORES = (("val", "auroc"), ("test", "auroc"), ("test", "f2"), ("test", "accuracy"))
CONSTANTS = ("all_tumour", "majority")
CHARTS = {
    "metrics": "Validation metrics",
    "loss": "Loss",
    "roc_test": "ROC curve on test",
    "confusion_test": "Confusion matrix on test",
}
GALLERIES = {"patches_test": "Test patches with predictions"}


def build(records: Records) -> Section:
    blocks: list[Block] = []
    section = Section("tracking", "Experiment tracking", blocks)
    results = [result for sweep in records.sweeps for result in sweep.results]
    if not results:
        blocks.append(missing("Training runs", "train"))
        return section
    for sweep in records.sweeps:
        if len(sweep.results) > 1:
            blocks.append(_seeds(records, sweep))
    blocks.append(_scores(records, results))
    if records.representative is not None:
        blocks += _beside_constants(records.representative)
        blocks += pictures_in(records.representative, CHARTS)
        blocks += pictures_in(records.representative, GALLERIES, charts=False)
    blocks.append(_evidence(records))
    return section


def _seeds(records: Records, sweep: Sweep) -> Table:
    """Return a row for each configuration: mean and deviation over seeds."""
    columns = [Column("configuration"), Column("seeds", "{:,}")]
    for split, name in SCORES:
        columns += [Column(f"{split} {name}, mean", "{:.4f}"), Column("deviation", "{:.4f}")]
    columns.append(Column("a constant is as good at"))
    rows: list[list[Value]] = []
    for each in sweep.configurations:
        row: list[Value] = [each.name, each.seeds]
        for split, name in SCORES:
            values = each.scores(split, name)
            row += [each.mean(split, name), deviation(values)]
        rows.append([*row, ", ".join(each.beaten_by_constant("test"))])
    best, reason = sweep.best
    highlight = next((n for n, each in enumerate(sweep.configurations) if each is best), None)
    source = source_of(records.records_of(sweep.results), "summary.json")
    note = f"Deviation: of single runs over seeds. Highlighted: {reason}." if best else reason
    return Table(f"Scores over seeds: {sweep.name}", columns, rows, source, note, False, highlight)


def _scores(records: Records, results: list[Result]) -> Table:
    """Return a row for each training run: state, scores and intervals."""
    columns = [Column("run"), Column("state"), Column("seed", "{}"), Column("val auroc", "{:.4f}")]
    columns += [Column("test auroc", "{:.4f}"), Column("from", "{:.4f}"), Column("to", "{:.4f}")]
    columns += [Column("test f2", "{:.4f}"), Column("test accuracy", "{:.4f}")]
    columns += [Column("seconds", "{:,.0f}"), Column("error")]
    rows: list[list[Value]] = []
    slides = set()
    for each in results:
        run = records.by_path.get(each.job.folder)
        interval = at(each.summary, "test", "metrics", "auroc")
        ends = [number(at(interval, end)) for end in ("low", "high")]
        found = at(each.summary, "test", "interval", "slides")
        slides.add(found if isinstance(found, int) else None)
        name = run.name if run else each.job.folder.name
        row: list[Value] = [name, each.job.state, run and run.seed]
        row += [each.score("val", "auroc"), each.score("test", "auroc"), *ends]
        row += [each.score("test", "f2"), each.score("test", "accuracy")]
        rows.append([*row, number(at(each.summary, "seconds")), each.job.error])
    note = f"95 % intervals {describe_interval(slides.pop())}." if len(slides) == 1 else ""
    note += " Threshold 0.5."
    runs = records.records_of(results) or list(records.every)
    return Table("Training runs", columns, rows, source_of(runs, "summary.json"), note.strip())


def _beside_constants(run: Record) -> list[Block]:
    """Return the test metrics of a run beside constant predictors."""
    test = at(run.summary, "test")
    beaten = at(test, "beaten_by_constant")
    beaten = beaten if isinstance(beaten, list) else []
    rows: list[list[Value]] = []
    for name, better in METRICS.items():
        score = at(test, "metrics", name)
        constants = [number(at(test, "baselines", each, name)) for each in CONSTANTS]
        row: list[Value] = [name, better, number(at(score, "value")), number(at(score, "low"))]
        row += [number(at(score, "high")), *constants]
        rows.append([*row, "a constant is as good" if name in beaten else ""])
    if not isinstance(test, dict):
        return []
    columns = [Column("metric"), Column("better"), Column("test", "{:.4f}")]
    columns += [Column("from", "{:.4f}"), Column("to", "{:.4f}")]
    columns += [Column(each.replace("_", " "), "{:.4f}") for each in CONSTANTS]
    columns.append(Column("verdict"))
    title = f"Choice of the metric: {run.name} beside constant predictors"
    return [Table(title, columns, rows, run.source("summary.json"))]


def _evidence(records: Records) -> Table | Text:
    """Return a row for each run with what proves it: commit, data, weights, job, checkpoint."""
    runs = records.of_kind("train")
    if not runs:
        return Text("No training run has started.", "warning")
    results = {each.job.folder: each for sweep in records.sweeps for each in sweep.results}
    columns = [Column("run"), Column("commit"), Column("data"), Column("weights")]
    columns += [Column("started"), Column("node"), Column("job"), Column("best checkpoint")]
    columns += [Column("bytes", "{:,}"), Column("command")]
    rows: list[list[Value]] = []
    for run in runs:
        place = run_location(results[run.path]) if run.path in results else {}
        digests = [run.folder.fingerprint, text(at(run.summary, "weights_digest"))]
        checkpoint = run.path / "checkpoints" / "best.ckpt"
        size = checkpoint.stat().st_size if checkpoint.is_file() else None
        row: list[Value] = [run.name, run.commit, *(each and each[:DIGITS] for each in digests)]
        row += [text(at(run.manifest, "started")), place.get("node"), place.get("job_id")]
        row += [None if size is None else "checkpoints/best.ckpt", size, run.command]
        rows.append(row)
    source = source_of(runs, "manifest.json", "summary.json")
    return Table("Evidence", columns, rows, source, is_detail=True)
