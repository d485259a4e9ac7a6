"""Records: finished folders with their files, each read once."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pcam_lightning.checks.inputs import Folder, Inputs, Kind
from pcam_lightning.errors import one_line, printable
from pcam_lightning.report.blocks import Source
from pcam_lightning.runs.files import RunFileError
from pcam_lightning.slurm.jobs import job_states
from pcam_lightning.sweeps.best import best_configuration
from pcam_lightning.sweeps.jobs import JobState, job_of_run
from pcam_lightning.sweeps.table import Configuration, Result, at, group_by_configuration

METRIC = "auroc"
"""Validation metric that selects the best configuration."""
DIGITS = 8
"""Characters of a digest that are shown."""


@dataclass(frozen=True, eq=False)
class Record:
    """A run folder of any command, with its files.

    Attributes:
        folder: the folder and its kind.
        name: its path relative to the folder that holds all inputs.
        result: its state, overrides and files.
    """

    folder: Folder
    name: str
    result: Result

    @property
    def summary(self) -> dict[str, Any]:
        """Content of `summary.json`; empty if missing or damaged."""
        return self.result.summary

    @property
    def manifest(self) -> dict[str, Any]:
        """Content of `manifest.json`; empty if missing or damaged."""
        return self.result.manifest

    @property
    def path(self) -> Path:
        return self.folder.path

    @property
    def kind(self) -> Kind:
        return self.folder.kind

    @property
    def dataset(self) -> str | None:
        """The name of the data set; None if not recorded."""
        name = at(self.manifest, "dataset", "name") or at(self.summary, "dataset")
        if name is None and isinstance(several := at(self.summary, "datasets"), list):
            name = ", ".join(dict.fromkeys(map(str, several)))  # of a comparison
        return one_line(name) if name else None

    @property
    def is_demo(self) -> bool:
        return "demo" in (self.dataset or "").split(", ")

    @property
    def seed(self) -> int | None:
        seed = at(self.manifest, "seed")
        return seed if isinstance(seed, int) else None

    @property
    def commit(self) -> str:
        """The first characters of the commit, with a mark for uncommitted changes."""
        commit = at(self.manifest, "git", "commit")
        if not isinstance(commit, str):
            return "not recorded"
        changed = at(self.manifest, "git", "dirty") is True
        return printable(commit[:DIGITS]) + " with uncommitted changes" * changed

    @property
    def command(self) -> str:
        """The command line, as it can be typed."""
        if self.kind in ("other", "sweep"):
            words = at(self.manifest, "command")
            return shlex.join(map(str, words)) if isinstance(words, list) else ""
        return (
            f"python -m pcam_lightning.{self.kind} {shlex.join(self.result.job.overrides)}".strip()
        )

    def source(self, *names: str) -> Source:
        """Return the origin of figures that were read from files of this folder."""
        return source_of([self], *names)


def source_of(records: Sequence[Record], *names: str) -> Source:
    """Return the origin of figures that were read from files of these folders."""
    first = records[0]
    seeds = [str(each.seed) for each in records if each.seed is not None]
    datasets = []
    for each in records:
        fingerprint = each.folder.fingerprint
        digest = f" ({printable(fingerprint[:DIGITS])})" if fingerprint else ""
        datasets.append(f"{each.dataset or 'not recorded'}{digest}")
    return Source(
        files=tuple(f"{each.name}/{name}" for each in records for name in names),
        command=one_line(first.command, 1000),
        dataset=", ".join(dict.fromkeys(datasets)),
        seeds=tuple(dict.fromkeys(seeds)),
        commits=tuple(dict.fromkeys(each.commit for each in records)),
        is_demo=any(each.is_demo for each in records),
    )


@dataclass(frozen=True)
class Sweep:
    """Training runs that belong together.

    Attributes:
        folder: the sweep, or the run of a sweep with one run.
        name: its path relative to the folder that holds all inputs.
        results: its jobs, with those that never started.
    """

    folder: Folder
    name: str
    results: tuple[Result, ...]

    @cached_property
    def configurations(self) -> list[Configuration]:
        return group_by_configuration(self.results)

    @cached_property
    def best(self) -> tuple[Configuration | None, str]:
        """The best configuration, None if there is none, and the reason."""
        return best_configuration(self.configurations, METRIC)


@dataclass(frozen=True)
class Records:
    """All inputs of a report.

    Attributes:
        inputs: the folders, as checks take them.
        every: the run folders of all commands.
        sweeps: the groups of training runs.
    """

    inputs: Inputs
    every: tuple[Record, ...]
    sweeps: tuple[Sweep, ...]

    def of_kind(self, *kinds: Kind) -> list[Record]:
        """Return the records of these kinds, in the order of their start."""
        return [each for each in self.every if each.kind in kinds]

    @cached_property
    def by_path(self) -> dict[Path, Record]:
        return {each.path: each for each in self.every}

    def records_of(self, results: Sequence[Result]) -> list[Record]:
        """Return the records of results whose runs have started."""
        found = (self.by_path.get(each.job.folder) for each in results)
        return [each for each in found if each is not None]

    @cached_property
    def leader(self) -> Sweep | None:
        """The sweep whose best configuration has the best mean validation AUROC.

        Only the data set of the most sweeps counts, since scores on other data do not compare. None
        if no sweep has a best configuration.
        """
        candidates = [each for each in self.sweeps if each.best[0]]
        if not candidates:
            return None
        data = [each.folder.fingerprint for each in candidates]
        usual = max(data, key=data.count)
        return max(
            (each for each in candidates if each.folder.fingerprint == usual), key=_best_score
        )

    @cached_property
    def representative(self) -> Record | None:
        """The run that is shown in detail, None without a scored run.

        It has the best validation AUROC in the leader's best configuration; without a leader, of
        all runs.
        """
        best = self.leader.best[0] if self.leader else None
        results = [each for sweep in self.sweeps for each in sweep.results]
        scored = [
            each
            for each in (best.results if best else results)
            if each.score("val", METRIC) >= 0 and each.job.folder in self.by_path
        ]
        if not scored:
            return None
        return self.by_path[max(scored, key=lambda each: each.score("val", METRIC)).job.folder]


def _best_score(sweep: Sweep) -> float:
    best, _ = sweep.best
    return best.mean("val", METRIC) if best else -1.0


def read_records(inputs: Inputs) -> Records:
    """Read the summaries and manifests of all folders.

    Damaged files count as missing here: a check reports them.
    """
    runs = [folder for folder in inputs.folders if folder.kind != "sweep"]
    top = Path(os.path.commonpath([folder.path.absolute().parent for folder in runs]))
    every, jobs = [], {}
    for number, folder in enumerate(runs):
        result = Result.of(job_of_run(folder.path, number, folder.run))
        name = printable(str(folder.path.absolute().relative_to(top)))
        every.append(Record(folder, name, result))
        jobs[folder.path] = result
    sweeps = []
    for folder in inputs.of_kind("sweep"):
        results = tuple(
            jobs[job.folder] if job.folder in jobs and job.state == "finished" else Result.of(job)
            for job in _jobs(folder)
        )
        name = printable(str(folder.path.absolute().relative_to(top)))
        sweeps.append(Sweep(folder, name, results))
    return Records(inputs, tuple(every), tuple(sweeps))


def _jobs(sweep: Folder) -> list[JobState]:
    """Return the jobs of a sweep; Slurm tells the causes of ends that no run recorded."""
    if (sweep.path / "sweep.json").is_file():
        try:
            jobs = job_states(sweep.path)
        except RunFileError:  # the check of states reports a damaged sweep.json
            jobs = []
        if jobs:
            return jobs
    return [job_of_run(sweep.path, n, member.run) for n, member in enumerate(sweep.members)]
