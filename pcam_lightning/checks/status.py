"""Checks of a folder as a whole: did its run end well, and can its files be read?"""

from __future__ import annotations

from pcam_lightning.checks.inputs import Folder, Inputs
from pcam_lightning.checks.outcome import Verdict, issue, passed, tip
from pcam_lightning.errors import one_line
from pcam_lightning.runs.files import MissingRunFileError


def finished(folder: Folder, inputs: Inputs) -> Verdict:
    """Check that a run is finished, and that its status, manifest and summary can be read."""
    run = folder.run
    state = run.state
    for name in ("manifest", "summary"):
        try:
            getattr(run, name)
        except MissingRunFileError:
            if state == "finished":
                return issue(f"the run is finished, but {name}.json is missing", "status.json")
    if state == "finished":
        return passed("the run is finished", "status.json")
    if state == "running":
        return tip("the run is not finished yet", "status.json")
    error = run.status.get("error") if state == "failed" else None
    text = error.get("text") if isinstance(error, dict) else error
    reason = f": {one_line(text, 200)}" if text else ""
    return issue(f"the state of the run is {state}{reason}", "status.json")
