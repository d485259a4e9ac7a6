"""Reading a run folder back."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pcam_lightning.runs.record import RunFileError, is_alive, read_json
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


class MissingRunFileError(RunFileError, FileNotFoundError):
    """A run folder does not (yet) hold a file."""


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
        return read_json(self._file("manifest.json"))

    @property
    def status(self) -> dict[str, Any]:
        """How the run goes, as last written by its own process; see also `state`."""
        return read_json(self._file("status.json"))

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
        state = str(status.get("state", "unknown"))
        return "killed" if state == "running" and is_alive(status) is False else state

    @property
    def summary(self) -> dict[str, Any]:
        """The result: metrics, baselines, threshold, times."""
        return read_json(self._file("summary.json"))

    @property
    def config(self) -> dict[str, Any]:
        """The config Hydra wrote, as plain containers; interpolations stay as text."""
        return self._yaml(".hydra/config.yaml", dict)

    @property
    def overrides(self) -> list[str]:
        """The overrides of the command line."""
        return self._yaml(".hydra/overrides.yaml", list)

    @property
    def metrics(self) -> pandas.DataFrame:
        """What was logged: columns `epoch`, `step` and one a metric, NaN where not logged."""
        import pandas

        return self._table("metrics.csv", pandas.read_csv)

    @property
    def gradients(self) -> pandas.DataFrame:
        """One row a training step: `step`, `epoch`, `loss`, `lr`, `norm`, `norm_clipped`, ..."""
        from pcam_lightning.runs.growing_table import read_table

        return self._table("gradients.parquet", lambda path: read_table(path).to_pandas())

    def predictions(self, split: str) -> pandas.DataFrame:
        """One row a patch of a split (`val`, `test`): row, slide if known, label, logit, ..."""
        import pandas

        return self._table(f"predictions/{split}.parquet", pandas.read_parquet)

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

    def read(self, name: str) -> bytes:
        """A file of the run as it is, such as "code.patch"."""
        return self._file(name).read_bytes()

    def _file(self, name: str) -> Path:
        path = self.path / name
        if path.is_file():
            return path
        state = "unknown" if name == "status.json" else self.state
        made_by = MADE_BY.get(name, "written when a model is evaluated on that split")
        raise MissingRunFileError(f"{path} is missing: it is {made_by}; this run's state: {state}")

    def _yaml(self, name: str, kind: type) -> Any:
        import yaml

        path = self._file(name)
        try:
            value = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, ValueError) as error:
            raise RunFileError(
                f"{path} is not valid YAML: {' '.join(str(error).split())}"
            ) from None
        if not isinstance(value, kind):
            expected = {dict: "a mapping", list: "a list"}[kind]
            raise RunFileError(f"{path} holds a {type(value).__name__}, expected {expected}")
        return value

    def _table(self, name: str, read: Callable[..., pandas.DataFrame]) -> pandas.DataFrame:
        path = self._file(name)
        try:
            return read(path)
        except (ValueError, OSError) as error:
            raise RunFileError(f"{path} cannot be read: {_one_line(error)}") from None


def is_run_folder(folder: Path) -> bool:
    """Whether a folder holds a `status.json` or a `manifest.json`."""
    return any((folder / name).is_file() for name in ("status.json", "manifest.json"))


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
        if {"status.json", "manifest.json"} & set(files):
            runs.append(Run(path))
    return sorted(runs, key=lambda run: (_start(run), run.path))


def _start(run: Run) -> float:
    """Seconds since 1970. A damaged run is listed too: whoever asks it for more is told."""
    for name in ("attempts/1/manifest.json", "manifest.json", "status.json"):
        try:
            return datetime.fromisoformat(read_json(run.path / name)["started"]).timestamp()
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return run.path.stat().st_mtime


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
