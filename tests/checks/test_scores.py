"""Checks of scores against cases worked by hand."""

from pathlib import Path

import check_folders as made
import numpy as np
import pytest

from pcam_lightning.checks.contents import Interval
from pcam_lightning.checks.inputs import Inputs, read_folder
from pcam_lightning.checks.scores import constant_predictors, decision_threshold, difference
from pcam_lightning.runs.threshold import Threshold, write_threshold


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made.write_train(tmp_path / "run", 0.01, 1, 0.9)
    return tmp_path / "run"


def test_the_interval_of_a_difference_adds_variances() -> None:
    # Half-widths of 0.03 and 0.04 make one of 0.05.
    first = Interval(value=0.90, low=0.87, high=0.93)
    second = Interval(value=0.80, low=0.76, high=0.84)
    assert difference(first, second) == pytest.approx((0.10, 0.05, 0.15))
    gap, low, high = difference(second, first)
    assert (gap, low, high) == pytest.approx((-0.10, -0.15, -0.05))


def test_an_auroc_that_may_be_chance_is_an_issue(folder: Path) -> None:
    score = {"value": 0.55, "low": 0.49, "high": 0.61}
    made.edit(folder / "summary.json", {"test/metrics/auroc": score})
    assert constant_predictors(read_folder(folder), Inputs(())).state == "issue"


def test_the_figures_name_the_best_constant(folder: Path) -> None:
    made.edit(folder / "summary.json", {"test/beaten_by_constant": ["f2"]})
    made.edit(folder / "summary.json", {"test/metrics/f2/value": 0.8})
    text = constant_predictors(read_folder(folder), Inputs(())).text
    assert "f2 0.800 (all tumour 0.833)" in text


def test_a_chosen_threshold_needs_no_advice(folder: Path) -> None:
    label = np.arange(made.ROWS) % 2
    for split in ("val", "test"):
        path = folder / f"predictions/{split}.parquet"
        made.write_predictions(path, np.arange(made.ROWS), label, np.where(label, -1.0, -3.0))
    assert decision_threshold(read_folder(folder), Inputs(())).state == "tip"
    threshold = Threshold(
        value=0.1, rule="max_fbeta", temperature=None, tta="none", checkpoint=None,
        weights_digest=None, dataset={}, validation={},
    )  # fmt: skip
    write_threshold(folder, threshold)
    assert decision_threshold(read_folder(folder), Inputs(())).state == "passed"


def test_a_threshold_that_calls_everything_tumour_is_no_advice(folder: Path) -> None:
    generator = np.random.default_rng(0)
    label = np.arange(made.ROWS) % 2
    for split in ("val", "test"):
        path = folder / f"predictions/{split}.parquet"
        logit = generator.normal(-1, 0.1, made.ROWS)  # noise, all below 0.5
        made.write_predictions(path, np.arange(made.ROWS), label, logit)
    assert decision_threshold(read_folder(folder), Inputs(())).state == "passed"
