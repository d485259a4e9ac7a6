"""Check of the state of a run."""

from pathlib import Path

import check_folders as made
import pytest

from pcam_lightning.checks.catalog import run_checks
from pcam_lightning.checks.inputs import find_inputs


@pytest.mark.parametrize(
    ("change", "state"),
    [
        ({"state": "finished"}, "passed"),
        ({"state": "running"}, "tip"),
        ({"state": "failed", "error": {"text": "diverged at step 3"}}, "issue"),
        ({"state": "preempted"}, "issue"),
        ({"state": None}, "issue"),
    ],
)
def test_a_run_that_did_not_end_is_reported(change: dict, state: str, tmp_path: Path) -> None:
    made.write_train(tmp_path / "run", 0.01, 1, 0.9)
    made.edit(tmp_path / "run/status.json", change)
    outcome = run_checks(find_inputs([tmp_path]))[0]
    assert (outcome.code, outcome.state) == ("PC001", state)


@pytest.mark.parametrize("name", ["summary.json", "manifest.json", "status.json"])
def test_a_missing_file_of_a_finished_run_is_an_issue(name: str, tmp_path: Path) -> None:
    made.write_train(tmp_path / "run", 0.01, 1, 0.9)
    (tmp_path / "run" / name).unlink()
    assert run_checks(find_inputs([tmp_path]))[0].state == "issue"
