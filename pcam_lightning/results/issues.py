"""Issues that the checks find in a run that has just finished."""

import logging
import os
from pathlib import Path

from pcam_lightning.cli.terminal import Terminal
from pcam_lightning.config.override_text import override
from pcam_lightning.errors import one_line

log = logging.getLogger(__name__)


def print_issues(folder: Path) -> None:
    """Print the issues of a finished run in at most five lines.

    A fault in a check is logged in one line and does not fail the run.
    """
    try:
        from pcam_lightning.checks.report import issues_of_run

        inputs = override("inputs", os.path.relpath(folder))
        lines = issues_of_run(folder, f"python -m pcam_lightning.check {inputs}")
    except Exception as error:  # the run is finished, and stays so
        reason = one_line(f"{type(error).__name__}: {error}")
        log.warning("the checks of this finished run failed: %s", reason)
        return
    console = Terminal()
    for line in lines:
        console.print(line, soft_wrap=True)
