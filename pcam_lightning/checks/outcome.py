"""Verdicts of checks, and the outcomes that a report lists."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pcam_lightning.checks.inputs import Folder, Inputs, Kind

State = Literal["issue", "tip", "passed", "not applicable"]
"""An issue may make a result wrong or a claim unsupported; a tip may improve the next run."""


@dataclass(frozen=True)
class Verdict:
    """Result of one check on one folder."""

    state: State
    text: str
    """The figures behind it; if not applicable, the missing input and the command that makes it."""
    file: str = "summary.json"
    """The file with the figures, relative to the folder, or to each run of a sweep."""


@dataclass(frozen=True)
class Check:
    """A check: a pure function of finished folders."""

    code: str
    title: str
    """Its subject, as a noun."""
    kinds: tuple[Kind, ...]
    """Kinds of folders that it applies to."""
    judge: Callable[[Folder, Inputs], Verdict]
    """Judges one folder; the inputs hold further folders that it may read.

    Raises RunFileError for a file that is damaged or missing.
    """


@dataclass(frozen=True)
class Outcome:
    """Verdict of a check, with its code, title and folder."""

    code: str
    title: str
    state: State
    text: str
    file: str | None
    folder: Path | None
    """None if no folder of the kind is among the inputs."""


def issue(text: str, file: str = "summary.json") -> Verdict:
    return Verdict("issue", text, file)


def tip(text: str, file: str = "summary.json") -> Verdict:
    return Verdict("tip", text, file)


def passed(text: str, file: str = "summary.json") -> Verdict:
    return Verdict("passed", text, file)


def not_applicable(text: str, file: str = "summary.json") -> Verdict:
    return Verdict("not applicable", text, file)
