"""Metrics that need a decision use the threshold of each run."""

from pathlib import Path
from typing import Any

import pytest
from sklearn.metrics import fbeta_score

from pcam_lightning.files import write_json
from pcam_lightning.metrics.predictions import write_predictions
from pcam_lightning.provenance.divergence import metric_differences
from pcam_lightning.runs import Run
from pcam_lightning.runs.threshold import Threshold, write_threshold

LABEL = [0, 0, 1, 1, 0, 1]
LOGIT = [-3.0, -0.5, -0.4, 1.0, 0.2, 2.0]
STORED = 0.4  # between the probabilities of logits -0.5 and -0.4


def made_run(folder: Path, **stored: Any) -> Run:
    write_predictions(folder / "predictions" / "test.parquet", range(6), LABEL, LOGIT)
    write_json(folder / "status.json", {"state": "finished"})
    write_json(folder / "summary.json", {"weights_digest": "0a", "test": {"threshold": 0.5}})
    if stored:
        chosen: dict[str, Any] = {"value": STORED, "rule": "youden", "temperature": None}
        chosen |= {"tta": "none", "checkpoint": "best.ckpt", "weights_digest": "0a"}
        chosen |= {"dataset": {}, "validation": {}}
        write_threshold(folder, Threshold(**chosen | stored))
    return Run(folder)


@pytest.mark.parametrize(
    ("stored", "value", "source"),
    [
        ({}, 0.5, "summary.json"),
        ({"value": STORED}, STORED, "threshold.json"),
        ({"weights_digest": None}, STORED, "threshold.json"),
        ({"weights_digest": "0b"}, 0.5, "summary.json"),  # chosen for other weights
        ({"tta": "d4"}, 0.5, "summary.json"),  # chosen for logits that are not stored here
    ],
)
def test_each_run_has_its_own_threshold(
    tmp_path: Path, stored: dict[str, Any], value: float, source: str
) -> None:
    plain, other = made_run(tmp_path / "a"), made_run(tmp_path / "b", **stored)
    found = metric_differences(plain, other)["test"]
    assert found["thresholds"] == [
        {"value": 0.5, "source": "summary.json"},
        {"value": value, "source": source},
    ]
    called = {0.5: [0, 0, 0, 1, 1, 1], STORED: [0, 0, 1, 1, 1, 1]}
    expected = fbeta_score(LABEL, called[value], beta=2) - fbeta_score(LABEL, called[0.5], beta=2)
    assert found["metrics"]["f2"]["difference"] == pytest.approx(expected)
