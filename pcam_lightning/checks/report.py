"""Text of outcomes: one line each, and their counts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from pcam_lightning.checks.catalog import run_checks
from pcam_lightning.checks.inputs import Inputs, read_folder
from pcam_lightning.checks.outcome import Outcome, State
from pcam_lightning.errors import one_line

LINES = 5
"""Maximum number of lines about a run that has just finished."""


def describe(outcome: Outcome) -> str:
    """Return an outcome as one line: state, code, title, figures, folder."""
    place = "" if outcome.folder is None else f" ({outcome.folder})"
    line = f"{outcome.state} {outcome.code} {outcome.title}: {outcome.text}{place}"
    return one_line(line, 2000)


def count_states(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """Return the number of outcomes in each state."""
    states = [outcome.state for outcome in outcomes]
    return {state: states.count(state) for state in get_args(State)}


def issues_of_run(folder: Path) -> list[str]:
    """Return the issues of one finished run, in at most `LINES` lines.

    Checks that compare it with other folders do not apply.
    """
    inputs = Inputs((read_folder(folder),))
    found = [each for each in run_checks(inputs) if each.state == "issue"]
    lines = [one_line(f"issue {each.code} {each.title}: {each.text}", 300) for each in found]
    if not lines:
        return []
    shown = lines if len(lines) < LINES else lines[: LINES - 2]
    more = len(lines) - len(shown)
    hint = f"python -m pcam_lightning.check inputs=[{os.path.relpath(folder)}] lists"
    return [*shown, f"{hint} {f'{more} more issues and ' * (more > 0)}tips; see docs/checks.md"]
