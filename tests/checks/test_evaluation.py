"""Checks of evaluations: states that depend on more than one figure."""

from pathlib import Path

import check_folders as made
import pytest

from pcam_lightning.checks import evaluation
from pcam_lightning.checks.inputs import Inputs, find_inputs, read_folder

WORSE = {"property": "hue", "slice": "from 300", "metrics": ["sensitivity"]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made.write_evaluate(tmp_path / "evaluate")
    return tmp_path / "evaluate"


@pytest.mark.parametrize(("known", "state"), [(True, "issue"), (False, "tip")])
def test_slices_without_slides_are_no_evidence(folder: Path, known: bool, state: str) -> None:
    changes = {"slices/worse": [WORSE] * 5, "slices/slides_known": known}
    made.edit(folder / "summary.json", changes)
    verdict = evaluation.weak_slices(read_folder(folder), Inputs(()))
    assert verdict.state == state
    assert ("independent" in verdict.text) == (not known)
    assert "5 of 20" in verdict.text and "2 more" in verdict.text


def test_the_calibrated_probabilities_count(folder: Path) -> None:
    # Before calibration the error is far above a perfect model's.
    assert evaluation.calibration(read_folder(folder), Inputs(())).state == "passed"
    made.edit(folder / "summary.json", {"calibration/after": None})
    assert evaluation.calibration(read_folder(folder), Inputs(())).state == "issue"


@pytest.mark.parametrize(
    ("digest", "state"), [("w0.0011", "passed"), ("another", "not applicable")]
)
def test_the_run_of_the_same_weights_is_compared(folder: Path, digest: str, state: str) -> None:
    made.write_train(folder.parent / "run", 0.001, 1, 0.9)
    made.edit(folder / "summary.json", {"inference/weights_digest": digest})
    inputs = find_inputs([folder.parent])
    (evaluated,) = inputs.of_kind("evaluate")
    assert evaluation.other_data(evaluated, inputs).state == state
