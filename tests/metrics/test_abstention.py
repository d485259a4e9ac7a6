"""Accuracy on the patches that are decided."""

import numpy as np
import pytest

from pcam_lightning.metrics.abstention import (
    SHARES,
    accuracy_by_coverage,
    describe_abstention,
    undecided,
)
from pcam_lightning.predict.tables import decide


def test_a_case_by_hand() -> None:
    # Distances from the threshold's logit, 0: 3, 2, 1, 0.5; the two least certain are wrong.
    label, logit = [1, 0, 0, 1], [3.0, -2.0, 1.0, -0.5]
    decided, accuracy = accuracy_by_coverage(label, logit, 0.5)
    np.testing.assert_allclose(decided, [0.25, 0.5, 0.75, 1.0])
    np.testing.assert_allclose(accuracy, [1, 1, 2 / 3, 0.5])
    assert list(undecided(logit, 0.5, 0.3)) == [False, False, True, True]  # 1.2 patches: 2
    found = {each["undecided"]: each for each in describe_abstention(label, logit, 0.5)}
    assert found[0.5] == {"undecided": 0.5, "decided": 2, "accuracy": 1.0}
    assert found[0.0]["accuracy"] == 0.5


@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.5, 1.0])
def test_reports_agree_with_decisions(threshold: float) -> None:
    rng = np.random.default_rng(0)
    # Rounded logits, so that many patches are equally certain.
    logit = rng.normal(size=501).round(1).astype(np.float32)
    label = (rng.random(501) < 0.4).astype(int)
    for each in describe_abstention(label, logit, threshold):
        decision = decide(logit, threshold, each["undecided"])
        decided = decision != "undecided"
        assert each["decided"] == decided.sum()
        accuracy = ((decision == "tumour") == (label == 1))[decided].mean()
        assert each["accuracy"] == pytest.approx(accuracy)
    assert len(describe_abstention(label, logit, threshold)) == len(SHARES)
