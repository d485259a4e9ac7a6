import json

import numpy as np
import pandas as pd
import pytest

from pcam_lightning.metrics.intervals import metric_intervals
from pcam_lightning.metrics.metrics import METRICS, compute_metrics
from pcam_lightning.metrics.predictions import read_predictions, write_predictions
from pcam_lightning.metrics.summary import summarize


@pytest.fixture
def predictions(tmp_path):
    generator = np.random.default_rng(0)
    label = generator.integers(2, size=300)
    logit = generator.normal(size=300) + 2 * label - 1
    slide = [f"slide_{i % 7}" for i in range(300)]
    write_predictions(tmp_path / "test.parquet", range(300), label, logit, slide)
    return read_predictions(tmp_path / "test.parquet")


def test_puts_the_parts_together(predictions):
    result = summarize(predictions, 0.4, 0.5, resamples=50, level=0.9, seed=4)
    assert json.loads(json.dumps(result, allow_nan=False)) == {
        **result,
        "rows": 300,
        "tumours": int(predictions["label"].sum()),
        "threshold": 0.4,
        "beaten_by_constant": [],
        "interval": {"unit": "slide", "slides": 7, "level": 0.9, "resamples": 7},
    }
    arguments = predictions["label"], predictions["probability"], 0.4
    metrics = compute_metrics(*arguments)
    intervals = metric_intervals(*arguments, predictions["slide"], 50, 0.9, 4)
    assert list(result["metrics"]) == list(METRICS)
    for name, entry in result["metrics"].items():
        assert (entry["value"], entry["low"], entry["high"]) == (metrics[name], *intervals[name])
    assert result["baselines"]["all_tumour"]["sensitivity"] == 1
    assert result["baselines"]["majority"]["precision"] is None


def test_by_patch_without_slides(predictions):
    result = summarize(predictions.drop(columns="slide"), 0.5, 0.5, resamples=20)
    assert (result["interval"]["unit"], result["interval"]["slides"]) == ("patch", None)


def test_undefined_is_null():
    normals = pd.DataFrame({"label": [0, 0], "probability": [0.1, 0.2]})
    result = summarize(normals, 0.5, 0.5, resamples=20)
    assert result["metrics"]["auroc"] == {"value": None, "low": None, "high": None}
    accuracy = result["metrics"]["accuracy"]
    assert (accuracy["value"], accuracy["high"]) == (1, 1) and 0 < accuracy["low"] < 1
    json.dumps(result, allow_nan=False)
