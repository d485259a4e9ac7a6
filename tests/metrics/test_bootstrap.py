import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, log_loss, recall_score, roc_auc_score

from pcam_lightning.metrics.bootstrap import bootstrap_intervals, bootstrap_means, resampling_unit
from pcam_lightning.metrics.metrics import METRICS, compute_metrics, row_costs


def random_table(rows, slides=12, seed=0):
    """Return a table whose scores shift by slide, so that errors in a slide correlate."""
    generator = np.random.default_rng(seed)
    slide = generator.integers(slides, size=rows)
    shift = generator.normal(0, 1, slides)[slide]
    label = generator.integers(2, size=rows)
    score = generator.normal(size=rows) + label + shift
    probability = (1 / (1 + np.exp(-score))).round(2)
    return label, probability, np.array([f"slide_{s}" for s in slide])


REFERENCES = {
    "auroc": roc_auc_score,
    "average_precision": average_precision_score,
    "sensitivity": lambda y, p: recall_score(y, p >= 0.5),
    "log_loss": log_loss,
}


def naive(label, probability, resamples, draw):
    """Score copies of the drawn rows with scikit-learn."""
    values = []
    for _ in range(resamples):
        drawn = draw()
        values.append([f(label[drawn], probability[drawn]) for f in REFERENCES.values()])
    quantiles = np.quantile(values, [0.025, 0.975], axis=0).T
    return dict(zip(REFERENCES, map(tuple, quantiles), strict=True))


def test_by_patch_equals_naive_resampling():
    label, probability, _ = random_table(200)
    generator = np.random.default_rng(3)
    expected = naive(label, probability, 30, lambda: generator.integers(200, size=200))
    ours = bootstrap_intervals(label, probability, resamples=30, seed=3)
    assert list(ours) == list(METRICS)
    for name, interval in expected.items():
        assert ours[name] == pytest.approx(interval, abs=1e-9), name


def test_by_slide_equals_naive_resampling():
    label, probability, slide = random_table(200)
    names = list(dict.fromkeys(slide))
    generator = np.random.default_rng(3)

    def draw():
        drawn = generator.integers(len(names), size=len(names))
        return np.concatenate([np.flatnonzero(slide == names[i]) for i in drawn])

    expected = naive(label, probability, 30, draw)
    ours = bootstrap_intervals(label, probability, slide=slide, resamples=30, seed=3)
    for name, interval in expected.items():
        assert ours[name] == pytest.approx(interval, abs=1e-9), name


def test_the_standard_error_of_accuracy_is_binomial():
    generator = np.random.default_rng(0)
    label = generator.integers(2, size=2000)
    right = generator.random(2000) < 0.8
    probability = np.where(right == (label == 1), 0.9, 0.1)
    low, high = bootstrap_intervals(label, probability, resamples=2000)["accuracy"]
    accuracy = right.mean()
    width = 2 * 1.96 * math.sqrt(accuracy * (1 - accuracy) / 2000)
    assert high - low == pytest.approx(width, rel=0.08)
    assert (low + high) / 2 == pytest.approx(accuracy, abs=0.1 * width)


def test_the_interval_covers_the_truth_at_its_level():
    # Two normal score distributions one standard deviation apart: AUROC = Phi(1 / sqrt 2).
    truth = 0.5 * (1 + math.erf(0.5))
    covered = 0
    for seed in range(150):
        generator = np.random.default_rng(seed)
        label = np.arange(150) % 2
        probability = 1 / (1 + np.exp(-(generator.normal(size=150) + label)))
        low, high = bootstrap_intervals(label, probability, resamples=100, seed=seed)["auroc"]
        covered += low <= truth <= high
    # Within three binomial standard errors of 0.95.
    assert covered / 150 == pytest.approx(0.95, abs=3 * math.sqrt(0.95 * 0.05 / 150))


def test_correlated_patches_need_resampling_by_slide():
    # Accuracy is 0.9 on half of the slides and 0.6 on the others: 0.75 overall.
    by_slide = by_patch = 0
    for seed in range(60):
        generator = np.random.default_rng(seed)
        slide = np.arange(40).repeat(50)
        chance = generator.choice([0.6, 0.9], size=40)[slide]
        right = generator.random(slide.size) < chance
        label = generator.integers(2, size=slide.size)
        probability = np.where(right == (label == 1), 0.9, 0.1)
        for unit in (slide, None):
            low, high = bootstrap_intervals(
                label, probability, slide=unit, resamples=100, seed=seed
            )["accuracy"]
            by_slide += unit is not None and low <= 0.75 <= high
            by_patch += unit is None and low <= 0.75 <= high
    assert 0.87 <= by_slide / 60 <= 0.99
    assert by_patch / 60 < 0.75


def test_means_agree_with_brier_and_log_loss():
    label, probability, slide = random_table(200)
    for unit in (None, slide):
        expected = bootstrap_intervals(label, probability, slide=unit, resamples=80, seed=2)
        costs = row_costs(label, probability)
        brier, loss = bootstrap_means(costs, slide=unit, resamples=80, seed=2)
        assert brier == pytest.approx(expected["brier"])
        assert loss == pytest.approx(expected["log_loss"])


def test_seeds_and_levels():
    label, probability, slide = random_table(300)
    for unit in (None, slide):
        one = bootstrap_intervals(label, probability, slide=unit, resamples=100, seed=1)
        assert one == bootstrap_intervals(label, probability, slide=unit, resamples=100, seed=1)
        assert one != bootstrap_intervals(label, probability, slide=unit, resamples=100, seed=2)
        narrow = bootstrap_intervals(label, probability, slide=unit, resamples=100, level=0.5)
        for name, value in compute_metrics(label, probability).items():
            low, high = narrow[name]
            assert one[name][0] < low < high < one[name][1]
            assert one[name][0] < value < one[name][1]


def test_undefined_resamples_are_left_out():
    # One tumour in 50 rows: 36 % of the resamples have none, and so no AUROC.
    label = np.arange(50) == 0
    probability = np.linspace(0, 0.4, 50)
    intervals = bootstrap_intervals(label, probability, resamples=200)
    assert intervals["auroc"] == pytest.approx((0, 0.03), abs=0.03)
    assert np.isnan(intervals["precision"]).all()  # nothing is ever predicted tumour
    alone = bootstrap_intervals([0, 0], [0.1, 0.2], resamples=50)
    assert np.isnan(alone["auroc"]).all()
    assert alone["specificity"] == (1, 1)


def test_unit():
    assert resampling_unit(None) == "patch"
    assert resampling_unit(["a", "a"]) == "patch"
    assert resampling_unit(np.array(["a", "b"])) == "slide"
    label, probability, _ = random_table(50)
    by_patch = bootstrap_intervals(label, probability, resamples=20)
    assert bootstrap_intervals(label, probability, slide=["a"] * 50, resamples=20) == by_patch


def test_invalid_input_is_rejected():
    label, probability = [0, 1, 1], [0.1, 0.2, 0.9]
    with pytest.raises(ValueError, match="slide"):
        bootstrap_intervals(label, probability, slide=["a", "b"])
    with pytest.raises(ValueError, match="slide"):
        bootstrap_intervals(label, probability, slide=np.array(["a", "b", None]))
    with pytest.raises(ValueError, match="resamples"):
        bootstrap_intervals(label, probability, resamples=0)
    with pytest.raises(ValueError, match="level"):
        bootstrap_intervals(label, probability, level=95)
