"""A live view of the jobs of sweeps, until all have ended."""

from __future__ import annotations

import csv
import io
import os
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from datetime import datetime

from rich.box import SIMPLE
from rich.live import Live
from rich.table import Table

from pcam_lightning.cli.terminal import Terminal
from pcam_lightning.collect.table import at
from pcam_lightning.runs import Run
from pcam_lightning.runs.files import RunFileError
from pcam_lightning.runs.status import is_alive
from pcam_lightning.slurm.jobs import JobState, count_states, titles


@dataclass(frozen=True)
class Progress:
    """How far a run has come; empty text for what it has not written yet.

    Attributes:
        epoch: such as `3/10`, counted from 1.
        auroc: the newest on validation.
        loss: the newest of training.
        elapsed: since the run was started, such as `0:12:05`.
    """

    epoch: str = ""
    auroc: str = ""
    loss: str = ""
    elapsed: str = ""


def watch(look: Callable[[], list[JobState]], every_seconds: float) -> bool:
    """Show jobs until all have ended: on a terminal a table, else a line whenever one changes.

    Jobs are only looked at, never touched. False where Ctrl-C has ended the view.

    Args:
        look: the jobs as they stand now.
        every_seconds: between two looks.
    """
    console = Terminal()
    lines, before = _Lines(console), None
    view = Live(console=console, auto_refresh=False) if console.is_terminal else nullcontext()
    try:
        with view as live:
            while True:
                jobs = look()
                rows = [(j, t, progress(j.run)) for j, t in zip(jobs, titles(jobs), strict=True)]
                if live is None:
                    lines.update(rows)
                else:
                    live.update(_table(rows), refresh=True)
                states = [job.state for job in jobs]
                # A job that is requeued may be out of the queue for a moment.
                settled = "lost" not in states or states == before
                if settled and all(job.has_ended for job in jobs) and not _goes_on(jobs):
                    return True
                before = states
                time.sleep(every_seconds)
    except KeyboardInterrupt:
        return False


def progress(run: Run | None) -> Progress:
    """What a run has written so far, be it in the middle of a line."""
    if run is None:
        return Progress()
    newest = _newest(run)
    try:
        most = at(run.config, "trainer", "max_epochs")
    except RunFileError:
        most = None
    try:
        status = run.status
    except RunFileError:
        status = {}
    return Progress(
        _epoch(newest.get("epoch"), most),
        _score(newest.get("val/auroc")),
        _score(newest.get("train/loss")),
        _elapsed(status),
    )


Row = tuple[JobState, str, Progress]


def _goes_on(jobs: Sequence[JobState]) -> bool:
    """Whether the process of a run that has ended lives: the basic launcher's has more to do."""
    for job in jobs:
        try:
            status = job.run.status if job.job_id is None and job.run else {}
        except RunFileError:
            continue
        if status.get("pid") != os.getpid() and is_alive(status):
            return True
    return False


class _Lines:
    """One line a job whenever its state, epoch or score has changed."""

    def __init__(self, console: Terminal) -> None:
        self._console = console
        self._known: dict[tuple[str, int], tuple] = {}

    def update(self, rows: Sequence[Row]) -> None:
        for job, title, far in rows:
            key, known = (str(job.sweep), job.number), (job.state, far.epoch, far.auroc, job.error)
            if self._known.get(key) != known:
                self._known[key] = known
                self._console.print(_line(job, title, far), soft_wrap=True)


def _line(job: JobState, title: str, far: Progress) -> str:
    parts = {"epoch": far.epoch, "val/auroc": far.auroc, "train/loss": far.loss, "": far.elapsed}
    said = [f"{name} {value}".strip() for name, value in parts.items() if value]
    words = [f"#{job.number}", title, job.state, *said, job.error]
    return "  ".join(word for word in words if word)


def _table(rows: Sequence[Row]) -> Table:
    counts = count_states(job.state for job, _, _ in rows)
    table = Table(box=SIMPLE, title=counts, title_justify="left")
    for column in ("job", "overrides", "state", "epoch", "val/auroc", "train/loss", "elapsed", ""):
        table.add_column(column, no_wrap=True, overflow="ellipsis")
    # Where a terminal has not room for all, those to look at come first.
    for job, title, far in sorted(rows, key=lambda row: row[0].state in ("finished", "queued")):
        cells = (str(job.number), title, job.state, far.epoch, far.auroc, far.loss, far.elapsed)
        table.add_row(*cells, job.error or "")
    return table


def _newest(run: Run) -> dict[str, float]:
    """The newest value of each column of `metrics.csv`."""
    try:
        text = run.read("metrics.csv").decode(errors="replace")
    except RunFileError:
        return {}
    # A number at the end may be half written, and would be read as another one.
    whole = text[: text.rfind("\n") + 1]
    newest: dict[str, float] = {}
    with suppress(csv.Error):  # a field of more than 128 kB
        for row in csv.DictReader(io.StringIO(whole)):
            for name, value in row.items():
                with suppress(TypeError, ValueError):
                    newest[name] = float(value)
    return newest


def _epoch(epoch: float | None, most: object) -> str:
    if epoch is None:
        return ""
    if not isinstance(most, int):
        return f"{epoch + 1:.0f}"
    return f"{min(epoch + 1, most):.0f}/{most}"  # the test is logged after the last epoch


def _score(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _elapsed(status: dict) -> str:
    try:
        start = datetime.fromisoformat(status["started"])
        end = status.get("finished")
        stop = datetime.fromisoformat(end) if end else datetime.now().astimezone()
        return str(stop - start).partition(".")[0]
    except (KeyError, TypeError, ValueError, OverflowError):
        return ""
