"""Live view of the jobs of sweeps."""

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
from pcam_lightning.runs import Run
from pcam_lightning.runs.files import RunFileError
from pcam_lightning.runs.status import is_alive
from pcam_lightning.sweeps.jobs import JobState, count_states, titles
from pcam_lightning.sweeps.table import at


@dataclass(frozen=True)
class Progress:
    """Progress of a run; a field is empty until the run has written its value.

    Attributes:
        epoch: current epoch, counted from 1, and number of epochs, such as `3/10`.
        auroc: latest AUROC on validation.
        loss: latest training loss.
        elapsed: time since the start of the run, such as `0:12:05`.
    """

    epoch: str = ""
    auroc: str = ""
    loss: str = ""
    elapsed: str = ""


def watch(look: Callable[[], list[JobState]], every_seconds: float) -> bool:
    """Show jobs until all have ended: a table on a terminal, else a line for every change.

    The jobs are only read. Ctrl-C ends the view.

    Args:
        look: returns the current states of the jobs.
        every_seconds: interval between two calls of `look`.

    Returns:
        True if all jobs have ended, False after Ctrl-C.
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
                # A requeued job can be missing from the queue for a moment.
                settled = not {"lost", "cancelled"} & {*states} or states == before
                if settled and all(job.has_ended for job in jobs) and not _launcher_runs(jobs):
                    return True
                before = states
                time.sleep(every_seconds)
    except KeyboardInterrupt:
        return False


def progress(run: Run | None) -> Progress:
    """Return the progress of a run, also while it writes its files."""
    if run is None:
        return Progress()
    latest = _latest(run)
    try:
        max_epochs = at(run.config, "trainer", "max_epochs")
    except RunFileError:
        max_epochs = None
    try:
        status = run.status
    except RunFileError:
        status = {}
    return Progress(
        _epoch(latest.get("epoch"), max_epochs),
        _score(latest.get("val/auroc")),
        _score(latest.get("train/loss")),
        _elapsed(status),
    )


Row = tuple[JobState, str, Progress]


def _launcher_runs(jobs: Sequence[JobState]) -> bool:
    """Return whether a basic launcher, which runs jobs in its own process, will run more jobs."""
    for job in jobs:
        try:
            status = job.run.status if job.job_id is None and job.run else {}
        except RunFileError:
            continue
        if status.get("pid") != os.getpid() and is_alive(status):
            return True
    return False


class _Lines:
    """Printer of a line for each change of a job's state, epoch, score or error."""

    def __init__(self, console: Terminal) -> None:
        self._console = console
        self._shown: dict[tuple[str, int], tuple] = {}

    def update(self, rows: Sequence[Row]) -> None:
        """Print the lines of the jobs that have changed since the previous call."""
        for job, title, run in rows:
            key, shown = (str(job.sweep), job.number), (job.state, run.epoch, run.auroc, job.error)
            if self._shown.get(key) != shown:
                self._shown[key] = shown
                self._console.print(_line(job, title, run), soft_wrap=True)


def _line(job: JobState, title: str, run: Progress) -> str:
    values = {"epoch": run.epoch, "val/auroc": run.auroc, "train/loss": run.loss, "": run.elapsed}
    texts = [f"{name} {value}".strip() for name, value in values.items() if value]
    place = job.node and f"on {job.node}"
    parts = [f"#{job.number}", title, job.state, place, job.waits_for, *texts, job.error]
    return "  ".join(part for part in parts if part)


def _table(rows: Sequence[Row]) -> Table:
    counts = count_states(job.state for job, _, _ in rows)
    table = Table(box=SIMPLE, title=counts, title_justify="left")
    progress = ("epoch", "val/auroc", "train/loss", "elapsed")
    for column in ("job", "overrides", "state", *progress, "where", ""):
        table.add_column(column, no_wrap=True, overflow="ellipsis")
    # A small terminal cuts the table off, so running and failed jobs come first.
    for job, title, run in sorted(rows, key=lambda row: row[0].state in ("finished", "queued")):
        cells = (str(job.number), title, job.state, run.epoch, run.auroc, run.loss, run.elapsed)
        where = " ".join(filter(None, (job.job_id, job.node)))
        table.add_row(*cells, where, job.error or job.waits_for or "")
    return table


def _latest(run: Run) -> dict[str, float]:
    """Return the latest value of each column of `metrics.csv`."""
    try:
        text = run.read("metrics.csv").decode(errors="replace")
    except RunFileError:
        return {}
    # The last line can be incomplete, and a part of a number is another number.
    complete = text[: text.rfind("\n") + 1]
    latest: dict[str, float] = {}
    with suppress(csv.Error):  # a field of more than 128 kB
        for row in csv.DictReader(io.StringIO(complete)):
            for name, value in row.items():
                with suppress(TypeError, ValueError):
                    latest[name] = float(value)
    return latest


def _epoch(epoch: float | None, max_epochs: object) -> str:
    if epoch is None:
        return ""
    if not isinstance(max_epochs, int) or max_epochs < 1:  # -1: no limit
        return f"{epoch + 1:.0f}"
    # The test scores are logged with the number of epochs as their epoch.
    return f"{min(epoch + 1, max_epochs):.0f}/{max_epochs}"


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
