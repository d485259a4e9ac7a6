"""Reading a run folder back."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pcam_lightning.runs import legacy
from pcam_lightning.runs.contents import read_manifest, read_status, read_summary
from pcam_lightning.runs.features import read_features
from pcam_lightning.runs.files import (
    MissingRunFileError,
    RunFileError,
    check_file,
    read_file,
    read_json,
    read_yaml,
)
from pcam_lightning.runs.status import is_alive
from pcam_lightning.runs.tables import read_csv, read_parquet
from pcam_lightning.runs.threshold import Threshold, read_threshold

if TYPE_CHECKING:
    import pandas

MADE_BY = {
    "manifest.json": "written when a run starts",
    "status.json": "written when a run starts",
    "environment.txt": "written when a run starts",
    "code.patch": "written when a run of a git checkout starts",
    "summary.json": "written when a run finishes",
    ".hydra/config.yaml": "written by Hydra when a command starts",
    ".hydra/overrides.yaml": "written by Hydra when a command starts",
    "metrics.csv": "written while a model trains",
    "gradients.parquet": "written while a model trains",
    "checkpoints/best.ckpt": "written after the first validation",
    "checkpoints/last.ckpt": "written after the first epoch",
}


FILE_BYTES = 64 << 20
"""The largest file that `Run.read` reads: a history, or code.patch."""


class Run:
    """A run folder, read from disk at every access, so that a live run can be watched.

    Every property raises MissingRunFileError (a RunFileError and a FileNotFoundError) when its file
    is not there, and RunFileError (a ValueError) when it is damaged.
    """

    def __init__(self, path: Path | str) -> None:
        """`path` is the folder that holds `status.json` or `manifest.json`, else RunFileError."""
        self.path = Path(path)
        if not is_run_folder(self.path):
            raise RunFileError(
                f"{self.path} is no run folder: expected a folder with a status.json or "
                "manifest.json in it"
            )

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @property
    def manifest(self) -> dict[str, Any]:
        """What made the run (see `manifest.collect_manifest`)."""
        return read_manifest(self._file("manifest.json"))

    @property
    def status(self) -> dict[str, Any]:
        """How the run goes, as last written by its own process; see also `state`."""
        return read_status(self._file("status.json"))

    @property
    def state(self) -> str:
        """`running`, `finished`, `failed`, `preempted`, `killed` or `unknown`.

        `killed` is a run whose status says `running` while its process is gone; a process of
        another machine cannot be asked and is believed. `unknown` is a run without a status.
        """
        try:
            status = self.status
        except MissingRunFileError:
            return "unknown"
        state = status.get("state") or "unknown"
        return "killed" if state == "running" and is_alive(status) is False else state

    @property
    def summary(self) -> dict[str, Any]:
        """The result: metrics, baselines, threshold, times."""
        return read_summary(self._file("summary.json"))

    @property
    def config(self) -> dict[str, Any]:
        """The config Hydra wrote, as plain containers, with today's names; interpolations stay."""
        path = self._file(".hydra/config.yaml")
        value = read_yaml(path)
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise RunFileError(
                f"{path} holds a {type(value).__name__}, expected a mapping of names"
            )
        return legacy.translate(value)

    @property
    def overrides(self) -> list[str]:
        """The overrides of the command line."""
        path = self._file(".hydra/overrides.yaml")
        value = read_yaml(path)
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise RunFileError(
                f"{path} holds a {type(value).__name__}, expected a list of KEY=VALUE"
            )
        return value

    @property
    def metrics(self) -> pandas.DataFrame:
        """What was logged: columns `epoch`, `step` and one a metric, NaN where not logged."""
        return read_csv(self._file("metrics.csv"))

    @property
    def gradients(self) -> pandas.DataFrame:
        """One row a training step: `step`, `epoch`, `loss`, `lr`, `norm`, `norm_clipped`, ..."""
        from pcam_lightning.runs.growing_table import read_table

        return read_table(self._file("gradients.parquet")).to_pandas()

    def predictions(self, split: str) -> pandas.DataFrame:
        """One row a patch of a split (`val`, `test`): row, slide if known, label, logit, ..."""
        return read_parquet(self._file(f"predictions/{split}.parquet"))

    @property
    def best_checkpoint(self) -> Path:
        """The checkpoint with the best validation score."""
        return self._file("checkpoints/best.ckpt")

    @property
    def last_checkpoint(self) -> Path:
        """The newest checkpoint, to resume from."""
        return self._file("checkpoints/last.ckpt")

    @property
    def threshold(self) -> Threshold | None:
        """From which probability on its model's patches are tumour; None if never chosen."""
        return read_threshold(self.path)

    @property
    def features(self) -> dict[str, Any] | None:
        """The appearance of the training patches (see `metrics.drift`); None in earlier runs."""
        return read_features(self.path)

    def read(self, name: str) -> bytes:
        """A file of the run as it is, such as "code.patch", of at most `FILE_BYTES`."""
        return read_file(self._file(name), FILE_BYTES)

    def _file(self, name: str) -> Path:
        path = self.path / name
        if os.path.lexists(path):
            check_file(path)
            return path
        try:
            state = "unknown" if name == "status.json" else self.state
        except RunFileError:
            state = "unknown"
        made_by = MADE_BY.get(name, "written when a model is evaluated on that split")
        raise MissingRunFileError(f"{path} is missing: it is {made_by}; this run's state: {state}")


def is_run_folder(folder: Path) -> bool:
    """Whether a folder holds a `status.json` or a `manifest.json`, be it a damaged one."""
    return any(os.path.lexists(folder / name) for name in ("status.json", "manifest.json"))


def find_runs(folder: Path | str) -> list[Run]:
    """All runs in a folder and below it, the first started first.

    A run's earlier attempts are part of it and not listed. Raises RunFileError when the folder
    does not exist; a folder without runs gives an empty list.
    """
    top = Path(folder)
    if not top.is_dir():
        raise RunFileError(f"{top} is no folder: expected one with run folders in it or below")
    runs = []
    for path, below, files in os.walk(top):
        below[:] = [name for name in below if name != "attempts" and not name.startswith(".")]
        if {"status.json", "manifest.json"} & {*below, *files}:
            runs.append(Run(path))
    return sorted(runs, key=lambda run: (_start(run), run.path))


def _start(run: Run) -> float:
    """Seconds since 1970. A damaged run is listed too: whoever asks it for more is told."""
    for name in ("attempts/1/manifest.json", "manifest.json", "status.json"):
        try:
            return datetime.fromisoformat(read_json(run.path / name)["started"]).timestamp()
        except (OSError, ValueError, KeyError, TypeError, OverflowError):
            continue
    return run.path.stat().st_mtime
