"""Findings about a machine."""

from dataclasses import dataclass
from typing import Literal

Level = Literal["green", "yellow", "red"]
LEVELS: tuple[Level, ...] = ("green", "yellow", "red")


@dataclass(frozen=True)
class Finding:
    """A measured fact about this machine.

    Attributes:
        name: the subject.
        level: green if it is ready to train, yellow for a limit, red if runs would fail.
        fact: one line with the measured value.
        mend: for yellow and red, the command that mends it; None if there is no single one.
    """

    name: str
    level: Level
    fact: str
    mend: str | None = None


def green(name: str, fact: str) -> Finding:
    return Finding(name, "green", fact)


def yellow(name: str, fact: str, mend: str | None) -> Finding:
    return Finding(name, "yellow", fact, mend)


def red(name: str, fact: str, mend: str | None) -> Finding:
    return Finding(name, "red", fact, mend)
