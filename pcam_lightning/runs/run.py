"""Reader of run folders."""

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
"""Maximum size of a file for `Run.read`."""


class Run:
    """A run folder, read from disk at every access, so that a running command can be watched.

    Every property raises MissingRunFileError (a RunFileError and a FileNotFoundError) if its file
    is missing, and RunFileError (a ValueError) if it is damaged.

    Args:
        path: folder with a `status.json` or `manifest.json`; raises RunFileError for any other.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        if not is_run_folder(self.path):
            raise RunFileError(
                f"{self.path} is no run folder: expected a folder with a status.json or "
                "manifest.json"
            )

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @property
    def manifest(self) -> dict[str, Any]:
        """The origin of the run (see `manifest.collect_manifest`)."""
        return read_manifest(self._file("manifest.json"))

    @property
    def status(self) -> dict[str, Any]:
        """The status that the run's process wrote last; see also `state`."""
        return read_status(self._file("status.json"))

    @property
    def state(self) -> str:
        """`running`, `finished`, `failed`, `preempted`, `killed` or `unknown`.

        `killed` means that the status is `running` but the process is gone; the status of a
        process on another machine is trusted. `unknown` means that there is no status.
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
        """The config that Hydra wrote, with current names and unresolved interpolations."""
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
        """Logged metrics: columns `epoch`, `step` and one per metric, NaN where not logged."""
        return read_csv(self._file("metrics.csv"))

    @property
    def gradients(self) -> pandas.DataFrame:
        """One row per training step: `step`, `epoch`, `loss`, `lr`, `norm`, `norm_clipped`, ..."""
        from pcam_lightning.runs.growing_table import read_table

        return read_table(self._file("gradients.parquet")).to_pandas()

    def predictions(self, split: str) -> pandas.DataFrame:
        """Return one row per patch of `val` or `test`: row, slide if known, label, logit, ..."""
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
        """The stored decision threshold; None if none was chosen."""
        return read_threshold(self.path)

    @property
    def features(self) -> dict[str, Any] | None:
        """The appearance of the training patches (see `metrics.drift`); None in earlier runs."""
        return read_features(self.path)

    def read(self, name: str) -> bytes:
        """Return the bytes of a file such as "code.patch", of at most `FILE_BYTES`."""
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
        raise MissingRunFileError(f"{path} is missing: it is {made_by}; state of the run: {state}")


def is_run_folder(folder: Path) -> bool:
    """Return True if a folder holds a `status.json` or a `manifest.json`, even a damaged one."""
    return any(os.path.lexists(folder / name) for name in ("status.json", "manifest.json"))


def find_runs(folder: Path | str) -> list[Run]:
    """Return all runs in a folder and below it, in the order of their start.

    Earlier attempts of a run are not listed. Raises RunFileError if the folder does not exist.
    """
    top = Path(folder)
    if not top.is_dir():
        raise RunFileError(f"{top} is no folder: expected a folder that contains run folders")
    runs = []
    for path, below, files in os.walk(top):
        below[:] = [name for name in below if name != "attempts" and not name.startswith(".")]
        if {"status.json", "manifest.json"} & {*below, *files}:
            runs.append(Run(path))
    return sorted(runs, key=lambda run: (_start(run), run.path))


def _start(run: Run) -> float:
    """Return the start in seconds since 1970; for a damaged run, the folder's time."""
    for name in ("attempts/1/manifest.json", "manifest.json", "status.json"):
        try:
            return datetime.fromisoformat(read_json(run.path / name)["started"]).timestamp()
        except (OSError, ValueError, KeyError, TypeError, OverflowError):
            continue
    return run.path.stat().st_mtime
