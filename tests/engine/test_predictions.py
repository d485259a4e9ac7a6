"""Metrics of the predictions of a split."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn import metrics

from pcam_lightning.engine.predictions import Predictions, split_metrics
from pcam_lightning.metrics.summary import summarize


def random_predictions(rows: int = 500, ties: bool = False) -> Predictions:
    generator = torch.Generator().manual_seed(rows)
    label = torch.randint(0, 2, (rows,), generator=generator)
    logit = torch.randn(rows, generator=generator) * 3 + label
    return Predictions(torch.arange(rows), label, logit.round() if ties else logit)


@pytest.mark.parametrize("ties", [False, True])
def test_metrics_equal_scikit_learns(ties: bool) -> None:
    predictions = random_predictions(ties=ties)
    label = predictions.label.numpy()
    probability = 1 / (1 + np.exp(-predictions.logit.double().numpy()))
    decision = probability >= 0.5
    expected = {
        "loss": metrics.log_loss(label, probability),
        "auroc": metrics.roc_auc_score(label, probability),
        "average_precision": metrics.average_precision_score(label, probability),
        "accuracy": metrics.accuracy_score(label, decision),
        "f2": metrics.fbeta_score(label, decision, beta=2),
    }
    found = {name: float(value) for name, value in split_metrics(predictions).items()}
    assert found == pytest.approx(expected, abs=1e-6)


def test_a_tie_with_the_threshold_is_tumour_in_training_and_summary_alike() -> None:
    tied = Predictions(torch.arange(4), torch.tensor([0, 1, 0, 1]), torch.zeros(4))
    trained = split_metrics(tied)
    probability = np.full(4, 0.5)
    table = pd.DataFrame({"row": range(4), "label": tied.label, "probability": probability})
    summary = summarize(table, 0.5, 0.5, resamples=1)["metrics"]
    # All four are called tumour, two of them rightly: recall 1, precision 1/2.
    assert float(trained["f2"]) == pytest.approx(summary["f2"]["value"]) == pytest.approx(5 / 6)
    assert float(trained["accuracy"]) == summary["accuracy"]["value"] == 0.5


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("rows", [[0], [3], [0, 1, 2, 3]])
def test_no_metric_is_known_where_a_logit_is_not_finite(value: float, rows: list[int]) -> None:
    logit = torch.tensor([-1.0, 1.0, -2.0, 3.0])
    logit[rows] = value
    found = split_metrics(Predictions(torch.arange(4), torch.tensor([0, 1, 0, 1]), logit))
    assert set(found) == {"loss", "auroc", "average_precision", "accuracy", "f2"}
    assert all(torch.isnan(each) for each in found.values())


def test_ranking_metrics_of_one_class_are_undefined() -> None:
    predictions = random_predictions(50)
    normal = predictions._replace(label=torch.zeros(50, dtype=torch.int64))
    found = split_metrics(normal)
    assert torch.isnan(found["auroc"]) and torch.isnan(found["average_precision"])
    assert torch.isfinite(found["loss"])
