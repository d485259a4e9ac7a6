"""Text of outcomes: one line each, and their counts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from pcam_lightning.checks.catalog import run_checks
from pcam_lightning.checks.inputs import Inputs, read_folder
from pcam_lightning.checks.outcome import Outcome, State
from pcam_lightning.errors import one_line

LINES = 5
"""Maximum number of lines about a run that has just finished."""


def describe(outcomes: Sequence[Outcome]) -> list[str]:
    """Return a line for each outcome: state, code, title, figures, folder.

    Folders with the same figures share a line.
    """
    groups: dict[tuple[str, ...], list[Path]] = {}
    for each in outcomes:
        folders = groups.setdefault((each.state, each.code, each.title, each.text), [])
        folders += [] if each.folder is None else [each.folder]
    lines = []
    for (state, code, title, text), folders in groups.items():
        more = f" and {len(folders) - 1} more" if len(folders) > 1 else ""
        place = f" ({folders[0]}{more})" if folders else ""
        lines.append(one_line(f"{state} {code} {title}: {text}{place}", 2000))
    return lines


def count_states(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """Return the number of outcomes in each state."""
    states = [outcome.state for outcome in outcomes]
    return {state: states.count(state) for state in get_args(State)}


def issues_of_run(folder: Path, command: str) -> list[str]:
    """Return the issues of one finished run, in at most `LINES` lines.

    The last line names `command`, which lists all.

    Checks that compare it with other folders do not apply.
    """
    inputs = Inputs((read_folder(folder),))
    found = [each for each in run_checks(inputs) if each.state == "issue"]
    lines = [one_line(f"issue {each.code} {each.title}: {each.text}", 300) for each in found]
    if not lines:
        return []
    shown = lines if len(lines) < LINES else lines[: LINES - 2]
    more = len(lines) - len(shown)
    rest = f"{more} more issues and tips" if more else "tips"
    return [*shown, f"{command} lists {rest}; see docs/checks.md"]
