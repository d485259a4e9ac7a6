"""Scores without duplicates against scikit-learn, and the effective number of patches."""

from pathlib import Path

import check_folders as made
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import fbeta_score, roc_auc_score

from pcam_lightning.checks.data import damage, duplicates, scores_without_duplicates
from pcam_lightning.checks.inputs import find_inputs

COPIES = {2: "duplicate", 5: "cross_split_duplicate", 8: "contradiction", 9: "contradiction"}
NEAR = {3: "near_duplicate", 4: "near_duplicate", 7: "cross_split_near_duplicate"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made.write_train(tmp_path / "run", 0.01, 1, 0.9)
    return tmp_path


def found_in(root: Path, kinds: dict[int, str], split: str = "test") -> None:
    made.write_audit(root / "audit", [(split, row, kind, "train:0") for row, kind in kinds.items()])


def test_both_scores_and_the_effective_n_are_reported(root: Path) -> None:
    found_in(root, COPIES)
    inputs = find_inputs([root])
    verdict = scores_without_duplicates(inputs.of_kind("train")[0], inputs)
    table = pd.read_parquet(root / "run/predictions/test.parquet")
    kept = table[~table["row"].isin(list(COPIES))]
    for part in (table, kept):
        auroc = roc_auc_score(part["label"], part["probability"])
        f2 = fbeta_score(part["label"], part["probability"] >= 0.5, beta=2)
        assert f"AUROC {auroc:.4f}, F2 {f2:.4f} on {len(part)} patches" in verdict.text
    assert verdict.state == "issue" and "effective n 56" in verdict.text
    assert "effective n 56 of 60" in duplicates(inputs.of_kind("audit")[0], inputs).text


def test_near_copies_lower_the_effective_n(root: Path) -> None:
    found = [("test", row, kind, "train:0") for row, kind in (COPIES | NEAR).items()]
    twice = ("test", 5, "near_duplicate", "test:0")  # already an exact copy
    made.write_audit(root / "audit", [*found, twice])
    inputs = find_inputs([root])
    for verdict in (
        scores_without_duplicates(inputs.of_kind("train")[0], inputs),
        duplicates(inputs.of_kind("audit")[0], inputs),
    ):
        assert verdict.state == "issue" and "effective n 53" in verdict.text
        assert "4 exact and 3 near" in verdict.text


def test_leaked_near_copies_are_an_issue(root: Path) -> None:
    for kind, state in (("near_duplicate", "tip"), ("cross_split_near_duplicate", "issue")):
        found_in(root, {2: kind})
        inputs = find_inputs([root])
        assert scores_without_duplicates(inputs.of_kind("train")[0], inputs).state == state
        assert duplicates(inputs.of_kind("audit")[0], inputs).state == state


def test_an_audit_that_searched_for_no_near_copies(root: Path) -> None:
    found_in(root, {})
    inputs = find_inputs([root])
    assert "did not search" in duplicates(inputs.of_kind("audit")[0], inputs).text
    made.edit(root / "audit/audit.json", {"near_duplicates": {"compared": 60}})
    inputs = find_inputs([root])
    verdict = duplicates(inputs.of_kind("audit")[0], inputs)
    assert verdict.state == "passed" and "did not search" not in verdict.text


def test_copies_within_a_split_are_a_tip(root: Path) -> None:
    found_in(root, {2: "duplicate"})
    inputs = find_inputs([root])
    assert scores_without_duplicates(inputs.of_kind("train")[0], inputs).state == "tip"
    assert duplicates(inputs.of_kind("audit")[0], inputs).state == "tip"


def test_an_audit_of_other_data_does_not_apply(root: Path) -> None:
    found_in(root, COPIES)
    made.edit(root / "audit" / "manifest.json", {"dataset/fingerprint": "e" * 32})
    inputs = find_inputs([root])
    state = scores_without_duplicates(inputs.of_kind("train")[0], inputs).state
    assert state == "not applicable"


def test_damage_that_training_left_out_is_no_issue(root: Path) -> None:
    found_in(root, {3: "black"}, "train")
    inputs = find_inputs([root])
    assert damage(inputs.of_kind("train")[0], inputs).state == "issue"
    made.edit(root / "run/manifest.json", {"config/data/exclude": "findings.parquet"})
    assert damage(inputs.of_kind("train")[0], inputs).state == "passed"


def test_cleaned_values_are_an_issue_without_an_audit(root: Path) -> None:
    made.edit(root / "run/summary.json", {"data/cleaning": {"train": {"nan": 7, "patches": 1}}})
    inputs = find_inputs([root])
    assert damage(inputs.of_kind("train")[0], inputs).state == "issue"


def test_no_patch_is_left(root: Path) -> None:
    found_in(root, dict.fromkeys(np.arange(made.ROWS).tolist(), "cross_split_duplicate"))
    inputs = find_inputs([root])
    assert scores_without_duplicates(inputs.of_kind("train")[0], inputs).state == "issue"
