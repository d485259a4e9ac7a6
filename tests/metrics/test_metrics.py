import math
from typing import Any

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from pcam_lightning.metrics.metrics import METRICS, Ranking, compute_metrics


def reference(label, probability, threshold=0.5, weight=None):
    """Return every metric as computed by scikit-learn, for tables where all are defined."""
    predicted = probability >= threshold
    kw = {"sample_weight": weight}
    m: Any = sklearn_metrics
    return {
        "auroc": m.roc_auc_score(label, probability, **kw),
        "average_precision": m.average_precision_score(label, probability, **kw),
        "accuracy": m.accuracy_score(label, predicted, **kw),
        "balanced_accuracy": m.balanced_accuracy_score(label, predicted, **kw),
        "f1": m.f1_score(label, predicted, **kw),
        "f2": m.fbeta_score(label, predicted, beta=2, **kw),
        "sensitivity": m.recall_score(label, predicted, **kw),
        "specificity": m.recall_score(label, predicted, pos_label=0, **kw),
        "precision": m.precision_score(label, predicted, **kw),
        "brier": m.brier_score_loss(label, probability, **kw),
        "log_loss": m.log_loss(label, probability, labels=[0, 1], **kw),
    }


def random_table(seed, ties):
    """Return labels, probabilities (few distinct values if ties), a threshold, a generator."""
    generator = np.random.default_rng(seed)
    rows = int(generator.integers(8, 400))
    label = (generator.random(rows) < generator.uniform(0.1, 0.9)).astype(int)
    label[:2] = 0, 1
    probability = np.clip(generator.normal(0.4 + 0.2 * label, 0.3), 0, 1)
    if ties:
        probability = probability.round(1)
    probability[2] = 1.0  # something is predicted tumour
    # A threshold equal to a probability tells >= from >.
    return label, probability, float(generator.choice(probability)), generator


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_agrees_with_scikit_learn(seed, ties):
    label, probability, threshold, generator = random_table(seed, ties)
    counts = generator.poisson(1.0, label.size)
    counts[:3] += 1
    for weight in (None, counts, generator.uniform(0.1, 3, label.size)):
        ours = compute_metrics(label, probability, threshold, weight)
        theirs = reference(label, probability, threshold, weight)
        assert list(ours) == list(METRICS)
        for name in METRICS:
            assert ours[name] == pytest.approx(theirs[name], rel=1e-9, abs=1e-9), name


def test_integer_weights_are_repeated_rows():
    label, probability, threshold, generator = random_table(1, ties=True)
    counts = generator.poisson(1.0, label.size)
    repeated = compute_metrics(label.repeat(counts), probability.repeat(counts), threshold)
    weighted = compute_metrics(label, probability, threshold, counts)
    assert weighted == pytest.approx(repeated, rel=1e-12)


def test_values_by_hand():
    # Tumours at 0.9, 0.6, 0.3; normals at 0.6, 0.2. Six pairs: 4 won, 1 tied, 1 lost.
    ours = compute_metrics([1, 1, 1, 0, 0], [0.9, 0.6, 0.3, 0.6, 0.2], threshold=0.6)
    assert ours["auroc"] == pytest.approx(4.5 / 6)
    assert ours["average_precision"] == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)
    assert ours["accuracy"] == pytest.approx(3 / 5)
    assert ours["balanced_accuracy"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert ours["f2"] == pytest.approx(5 * 2 / (5 * 2 + 4 * 1 + 1))
    assert ours["brier"] == pytest.approx((0.01 + 0.16 + 0.49 + 0.36 + 0.04) / 5)


def test_tumour_everywhere_at_balanced_classes():
    assert compute_metrics([0, 1], [0.9, 0.9])["f2"] == pytest.approx(0.833, abs=5e-4)


def undefined(metrics):
    return {name for name, value in metrics.items() if math.isnan(value)}


def test_undefined_metrics_are_nan():
    normals = compute_metrics([0, 0], [0.1, 0.2])
    assert undefined(normals) == {
        *("auroc", "average_precision", "balanced_accuracy"),
        *("f1", "f2", "sensitivity", "precision"),
    }
    assert normals["accuracy"] == normals["specificity"] == 1
    # A false alarm does not define F2, which would be 0 for a lack of tumours.
    assert undefined(compute_metrics([0, 0], [0.1, 0.9])) == undefined(normals) - {"precision"}
    tumours = compute_metrics([1, 1], [0.1, 0.9])
    assert undefined(tumours) == {"auroc", "balanced_accuracy", "specificity"}
    none_predicted = compute_metrics([0, 1], [0.1, 0.2])
    assert undefined(none_predicted) == {"precision"}
    assert none_predicted["f1"] == none_predicted["sensitivity"] == 0
    # Rows of weight 0 count as absent.
    assert undefined(compute_metrics([0, 0, 1], [0.1, 0.2, 0.9], weight=[1, 1, 0])) == undefined(
        normals
    )


def test_log_loss_of_a_certain_error_agrees_with_scikit_learn():
    label, probability = np.array([0, 1, 1]), np.array([1.0, 0.0, 1.0])
    expected = sklearn_metrics.log_loss(label, probability)
    assert compute_metrics(label, probability)["log_loss"] == pytest.approx(expected, rel=1e-9)


def test_float32_probabilities_are_compared_exactly():
    probability = np.array([0.1, 0.7], dtype=np.float32)
    assert compute_metrics([0, 1], probability, float(probability[1]))["sensitivity"] == 1


def test_counts_are_the_points_of_the_roc_curve():
    label, probability, _, _ = random_table(3, ties=True)
    true_positives, false_positives = Ranking(label, probability).counts()
    fpr, tpr, _ = sklearn_metrics.roc_curve(label, probability, drop_intermediate=False)
    np.testing.assert_allclose(true_positives / label.sum(), tpr)
    np.testing.assert_allclose(false_positives / (1 - label).sum(), fpr)


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (([], []), "not empty"),
        (([0, 1], [0.5]), "of one length"),
        (([[0, 1]], [[0.5, 0.5]]), "flat"),
        (([0, 2], [0.5, 0.5]), "label must be 0"),
        (([0, 1], [0.5, np.nan]), "probability must lie"),
        (([0, 1], [0.5, 1.5]), "probability must lie"),
        (([0, 1], [0.5, 0.5], math.nan), "threshold"),
        (([0, 1], [0.5, 0.5], 0.5, [1]), "weight"),
        (([0, 1], [0.5, 0.5], 0.5, [0, 0]), "weight"),
        (([0, 1], [0.5, 0.5], 0.5, [2, -1]), "weight"),
        (([0, 1], [0.5, 0.5], 0.5, [2, math.nan]), "weight"),
    ],
)
def test_invalid_input_is_rejected(arguments, fault):
    with pytest.raises(ValueError, match=fault):
        compute_metrics(*arguments)
