"""Folders to check: found below the given paths, and classified by their contents."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pcam_lightning.runs import Run, find_runs
from pcam_lightning.runs.files import RunFileError

Kind = Literal[
    "train", "sweep", "audit", "evaluate", "compare", "reproduce", "benchmark", "export", "bundle",
    "other",
]  # fmt: skip

COMMANDS: dict[Kind, str] = {
    "train": "python -m pcam_lightning.train",
    "sweep": "python -m pcam_lightning.train --multirun seed=1,2,3",
    "audit": "python -m pcam_lightning.audit data.root=FOLDER",
    "evaluate": "python -m pcam_lightning.evaluate run=FOLDER",
    "compare": "python -m pcam_lightning.compare runs=[FOLDER,FOLDER]",
    "reproduce": "python -m pcam_lightning.reproduce run=FOLDER",
    "benchmark": "python -m pcam_lightning.benchmark mode=train",
    "export": "python -m pcam_lightning.export run=FOLDER",
    "bundle": "python -m pcam_lightning.bundle run=FOLDER",
}
"""The command that makes a folder of each kind."""

SUMMARY_KEYS: dict[Kind, set[str]] = {
    "evaluate": {"subject", "split"},
    "benchmark": {"mode", "rows"},
    "audit": {"findings", "failed_on"},
    "bundle": {"archive", "model"},
    "export": {"files", "weights_digest"},
    "reproduce": {"identical", "verdict"},
    "compare": {"runs", "verdict"},
    "train": {"val", "test", "weights_digest"},
}
"""Keys of `summary.json` that only this kind has; earlier entries come first."""

SWEEP_FILES = ("sweep.json", "multirun.yaml")
"""Files of a sweep's own folder, one of which it holds."""


@dataclass(frozen=True)
class Folder:
    """A folder to check: a run of a command, or a sweep."""

    path: Path
    kind: Kind
    fingerprint: str | None = None
    """Fingerprint of the data of a run; None if not recorded."""
    members: tuple[Folder, ...] = ()
    """The training runs of a sweep; empty for other kinds."""

    @property
    def run(self) -> Run:
        """The reader of the folder; raises RunFileError for the folder of a sweep."""
        return Run(self.path)


@dataclass(frozen=True)
class Inputs:
    """All folders to check; a sweep follows the runs that it consists of."""

    folders: tuple[Folder, ...]

    def of_kind(self, *kinds: Kind) -> list[Folder]:
        """Return the folders of these kinds."""
        return [folder for folder in self.folders if folder.kind in kinds]

    def audit_of(self, folder: Folder) -> Folder | None:
        """Return the newest audit of the data of a run, None if there is none."""
        audits = [each for each in self.of_kind("audit") if each.fingerprint is not None]
        same = [each for each in audits if each.fingerprint == folder.fingerprint]
        return same[-1] if same else None


def find_inputs(paths: Iterable[Path | str]) -> Inputs:
    """Find and classify the runs in folders and below them.

    Runs inside the folder of another run, such as the repetition of `reproduce`, are left out. The
    training runs below a folder with a `sweep.json` or `multirun.yaml` are a sweep. Other training
    runs on the same data form one sweep for each parent folder.

    Raises:
        RunFileError: there is no path, or a path is no folder or holds no run.
    """
    tops = list(map(Path, paths))
    if not tops:
        raise RunFileError("inputs=[]: expected at least one folder with runs")
    found: dict[Path, Folder] = {}
    sweeps: dict[tuple[Path, str | None], list[Folder]] = {}
    for path in tops:
        runs = find_runs(path)
        if not runs:
            raise RunFileError(f"{path}: no run found, expected a run folder or a folder of runs")
        below = {run.path for run in runs}
        for run in runs:
            place = Path(os.path.realpath(run.path))
            if place in found or below & set(run.path.parents):
                continue
            found[place] = folder = read_folder(run.path)
            if folder.kind == "train":
                top = _sweep_above(run.path, path)
                key = (run.path.parent, folder.fingerprint) if top is None else (top, None)
                sweeps.setdefault(key, []).append(folder)
    groups = [
        Folder(path if len(runs) > 1 else runs[0].path, "sweep", runs[0].fingerprint, tuple(runs))
        for (path, _), runs in sweeps.items()
    ]
    return Inputs((*found.values(), *groups))


def read_folder(path: Path) -> Folder:
    """Return a run folder with its kind and the fingerprint of its data."""
    run = Run(path)
    manifest = _read(run, "manifest")
    fingerprint = (manifest.get("dataset") or {}).get("fingerprint")
    return Folder(path, _kind(manifest, _read(run, "summary")), fingerprint)


def _kind(manifest: dict[str, Any], summary: dict[str, Any]) -> Kind:
    if "config" in manifest:  # only `train` records it there
        return "train"
    for kind, keys in SUMMARY_KEYS.items():
        if keys <= summary.keys():
            return kind
    words = manifest.get("command")
    for word in words if isinstance(words, list) else ():
        name = re.search(r"pcam_lightning[./](\w+)", str(word))
        for kind in COMMANDS:
            if name and name[1] == kind:
                return kind
    return "other"


def _sweep_above(run: Path, top: Path) -> Path | None:
    """Return the nearest folder with a sweep's file, from a run's parent up to `top`."""
    for folder in run.parents:
        if not folder.is_relative_to(top):
            return None
        if any((folder / name).is_file() for name in SWEEP_FILES):
            return folder
    return None


def _read(run: Run, name: str) -> dict[str, Any]:
    try:
        return getattr(run, name)
    except RunFileError:  # PC001 reports it
        return {}
