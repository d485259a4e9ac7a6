"""Provenance of runs, and the differences between them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pcam_lightning.data.files import SplitFiles, split_files
from pcam_lightning.errors import InputError
from pcam_lightning.provenance.data import changed_rows
from pcam_lightning.runs import Run
from pcam_lightning.runs.checkout import changed_lines
from pcam_lightning.runs.files import MissingRunFileError
from pcam_lightning.runs.folder import move_folder
from pcam_lightning.runs.manifest import environment_text
from pcam_lightning.runs.resume import flatten, weight_settings
from pcam_lightning.runs.snapshot import code_state

SHOWN_LINES = 10
H5_FILES = {
    files.names(part)[0]: (split, part)
    for split, files in split_files(Path()).items()
    for part in ("x", "y")
}
"""Split and part of each H5 file, by the name that a manifest has."""
MATTERS = {
    "python": {"version"},
    "hardware": {"cpu", "gpus", "driver", "cuda", "torch_threads"},
    "environment": {"OMP_NUM_THREADS", "CUBLAS_WORKSPACE_CONFIG", "PYTHONHASHSEED"},
    "slurm": {"tasks"},
}
"""Facts of these sections of a manifest that can change a result; their other facts cannot."""


@dataclass(frozen=True)
class Provenance:
    """Everything that a run was made of: config, code, packages, data and machine."""

    manifest: Mapping[str, Any]
    packages: Mapping[str, str]
    """Version of every installed package, by name."""
    patch: bytes | None
    """Changes of the code since its commit; None if unknown."""

    @classmethod
    def of(cls, run: Run) -> Provenance:
        """Return the provenance of a run; raise RunFileError if its manifest is unusable."""
        manifest = run.manifest
        if "config" not in manifest:
            manifest = manifest | {"config": run.config}
        return cls(manifest, packages_of(_text(run, "environment.txt")), _bytes(run, "code.patch"))

    @classmethod
    def now(cls, manifest: Mapping[str, Any]) -> Provenance:
        """Return the provenance of a run that would start now with this manifest."""
        return cls(manifest, packages_of(environment_text()), code_state().patch)

    def facts(self) -> dict[tuple[str, str], Any]:
        """Return all facts to compare, by kind and name."""
        manifest = self.manifest
        config = manifest.get("config", {})
        if folder := config.get("run_dir"):  # would differ in every run
            config = move_folder(config, folder, "${run_dir}")
        facts = {("config", key): value for key, value in flatten(config)}
        facts |= {("code", name): digest for name, digest in _section(manifest, "sources")}
        facts["code", "commit"] = manifest.get("git", {}).get("commit")
        facts["code", "snapshot"] = (manifest.get("snapshot") or {}).get("digest")
        facts["backbone", "digest"] = (manifest.get("backbone") or {}).get("digest")
        facts |= {("package", name): version for name, version in self.packages.items()}
        facts |= {("data", name): digest for name, digest in _files(manifest)}
        for kind in ("determinism", *MATTERS):
            facts |= {(kind, name): value for name, value in _section(manifest, kind)}
        return facts


@dataclass(frozen=True)
class Difference:
    """A fact in which runs differ."""

    kind: str
    """Kind of fact, such as config, code, backbone, package, data or hardware."""
    name: str
    values: list[Any]
    """One value per run, None if the run has no such fact."""
    matters: bool
    """True if the fact can change weights or metrics."""
    detail: list[str] = field(default_factory=list)
    """Changed lines of code, or changed rows of data, between the first run and the first run that
    differs from it."""


def differences(provenances: Sequence[Provenance]) -> list[Difference]:
    """Return the differences between runs; those that can change a result come first."""
    facts = [provenance.facts() for provenance in provenances]
    sources_known = all(provenance.manifest.get("sources") for provenance in provenances)
    lines = _changed_lines(provenances)
    settings = {
        key for each in provenances for key in weight_settings(each.manifest.get("config", {}))
    }
    found = []
    for kind, name in dict.fromkeys(key for each in facts for key in each):
        values = [each.get((kind, name)) for each in facts]
        if all(value == values[0] for value in values):
            continue
        if kind == "code":
            # The snapshot's digest covers conf/, which is compared as config.
            matters = name != "snapshot" and (name != "commit" or not sources_known)
        elif kind == "config":
            matters = name in settings
        else:
            matters = kind not in MATTERS or name in MATTERS[kind]
        detail: list[str] = []
        if kind == "code":
            detail = lines.get(name, [])
        elif kind == "data":
            other = next(i for i, value in enumerate(values) if value != values[0])
            changed = _changed_rows(provenances[0].manifest, provenances[other].manifest, name)
            if changed is None:
                continue
            detail = changed
        found.append(Difference(kind, name, values, matters, detail))
    return sorted(found, key=lambda each: not each.matters)


def packages_of(environment: str) -> dict[str, str]:
    """Return the versions by package name, from lines `name==version`."""
    pairs = (line.partition("==") for line in environment.splitlines() if "==" in line)
    return {name: version for name, _, version in pairs if name != "pcam-lightning"}


def _changed_lines(provenances: Sequence[Provenance]) -> dict[str, list[str]]:
    """Return the changed lines by file, between the first code and the first that differs."""
    states = [(each.manifest.get("git", {}).get("commit"), each.patch) for each in provenances]
    other = next((state for state in states if state != states[0]), states[0])
    (commit, patch), (other_commit, other_patch) = states[0], other
    if commit is None or patch is None or other_commit is None or other_patch is None:
        return {}
    changed = changed_lines((commit, patch), (other_commit, other_patch)) or {}
    return {
        name: [*lines[:SHOWN_LINES], *([f"... {len(lines):,} lines"] * (len(lines) > SHOWN_LINES))]
        for name, lines in changed.items()
    }


def _changed_rows(one: Mapping[str, Any], other: Mapping[str, Any], name: str) -> list[str] | None:
    """Describe the differences of a file, as far as they are known; None if there are none."""
    used: list[tuple[SplitFiles, str]] = []
    for manifest in (one, other):
        dataset = manifest.get("dataset", {})
        if name not in H5_FILES or dataset.get("root") is None:
            return []
        if name not in (dataset.get("files") or {}):
            return []
        keys = (manifest.get("config", {}).get("data") or {}).get("keys")
        try:
            files = split_files(dataset["root"], keys)[H5_FILES[name][0]]
        except InputError as error:
            return [str(error)]
        used.append((files, dataset["files"][name]))
    return changed_rows(used[0], used[1], H5_FILES[name][1]) or None


def _section(manifest: Mapping[str, Any], kind: str) -> Iterator[tuple[str, Any]]:
    yield from (manifest.get(kind) or {}).items()


def _files(manifest: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    dataset = manifest.get("dataset", {})
    yield from (dataset.get("files") or {"fingerprint": dataset.get("fingerprint")}).items()


def _text(run: Run, name: str) -> str:
    return (_bytes(run, name) or b"").decode("utf-8", errors="replace")


def _bytes(run: Run, name: str) -> bytes | None:
    try:
        return run.read(name)
    except MissingRunFileError:
        return None
