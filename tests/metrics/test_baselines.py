import math

import numpy as np
import pytest
from sklearn.dummy import DummyClassifier
from sklearn.metrics import accuracy_score, brier_score_loss, f1_score, log_loss

from pcam_lightning.metrics.baselines import (
    beaten_by_constant,
    constant_baselines,
    not_beyond_constant,
)
from pcam_lightning.metrics.intervals import metric_intervals
from pcam_lightning.metrics.metrics import compute_metrics

LABEL = np.array([0] * 60 + [1] * 40)


@pytest.mark.parametrize("prevalence", [0.2, 0.5, 0.7])
def test_agrees_with_dummy_classifiers(prevalence):
    train = np.arange(100) < 100 * prevalence
    nothing = np.zeros((100, 1))
    prior = DummyClassifier(strategy="prior").fit(nothing, train)
    probability = np.asarray(prior.predict_proba(nothing))[:, 1]
    baselines = constant_baselines(LABEL, train.mean())
    for name, dummy in (
        ("majority", DummyClassifier(strategy="most_frequent")),
        ("all_tumour", DummyClassifier(strategy="constant", constant=True)),
    ):
        predicted = dummy.fit(nothing, train).predict(nothing)
        metrics = baselines[name]
        assert metrics["accuracy"] == pytest.approx(accuracy_score(LABEL, predicted))
        assert metrics["f1"] == pytest.approx(f1_score(LABEL, predicted))
        assert metrics["brier"] == pytest.approx(brier_score_loss(LABEL, probability))
        assert metrics["log_loss"] == pytest.approx(log_loss(LABEL, probability))
        assert metrics["auroc"] == 0.5
        assert metrics["average_precision"] == pytest.approx(0.4)


def test_the_prevalence_is_put_through_the_models_threshold():
    for threshold, twin in ((0.3, "all_tumour"), (0.4, "all_tumour"), (0.5, "majority")):
        baselines = constant_baselines(LABEL, 0.4, threshold)
        assert baselines["prevalence"] == pytest.approx(baselines[twin], nan_ok=True)


def test_better_by_chance_is_not_better():
    generator = np.random.default_rng(1)
    noise = generator.random(100)
    weak = not_beyond_constant(LABEL, noise, 0.5, 0.4, resamples=200)
    assert {"auroc", "f2", "balanced_accuracy", "brier"} <= set(weak)
    assert not {"sensitivity", "specificity"} & set(weak)
    assert set(
        beaten_by_constant(compute_metrics(LABEL, noise), constant_baselines(LABEL, 0.4))
    ) <= set(weak)
    strong = np.clip(0.2 + 0.6 * LABEL + generator.normal(0, 0.1, 100), 0, 1)
    assert not_beyond_constant(LABEL, strong, 0.5, 0.4, resamples=200) == []


def test_a_constant_is_scored_on_the_same_resamples():
    # Prevalence differs so much from slide to slide that F2 itself can be anything; that the model
    # beats "all tumour" on every slide is certain nevertheless.
    slide = np.arange(12).repeat(50)
    label = (np.arange(600) % 50 < np.linspace(5, 45, 12)[slide]).astype(int)
    probability = np.where(label == 1, 0.9, np.where(np.arange(600) % 5 > 0, 0.8, 0.1))
    low, _ = metric_intervals(label, probability, slide=slide, resamples=200)["f2"]
    assert low < constant_baselines(label, 0.5)["all_tumour"]["f2"]
    assert "f2" not in not_beyond_constant(label, probability, 0.5, 0.5, slide, resamples=200)


@pytest.mark.parametrize("prevalence", [-0.1, 1.1, math.nan])
def test_prevalence_is_a_share(prevalence):
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        constant_baselines(LABEL, prevalence)


def test_a_good_model_is_beaten_nowhere():
    metrics = compute_metrics(LABEL, np.where(LABEL == 1, 0.8, 0.1))
    metrics["sensitivity"] = 0.9  # all_tumour has 1 without looking
    assert beaten_by_constant(metrics, constant_baselines(LABEL, 0.5)) == []


def test_a_model_that_says_tumour_everywhere_is_found_out():
    beaten = beaten_by_constant(
        compute_metrics(LABEL, np.full(100, 0.9)), constant_baselines(LABEL, 0.5)
    )
    assert {"auroc", "average_precision", "balanced_accuracy", "f1", "f2", "precision"} < {*beaten}
    assert {"brier", "log_loss"} < {*beaten}  # lower is better


def test_each_metric_is_compared_the_right_way_round_and_ties_count():
    names: tuple[str, ...] = ("auroc", "accuracy", "brier", "log_loss")
    constant: dict[str, float] = dict.fromkeys(names, 0.5)

    def beaten(model):
        return beaten_by_constant(dict.fromkeys(names, model), {"majority": constant})

    assert beaten(0.5) == list(names)
    assert beaten(0.6) == ["brier", "log_loss"]
    assert beaten(0.4) == ["auroc", "accuracy"]
    assert beaten(math.nan) == []
