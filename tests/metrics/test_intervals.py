import math

import numpy as np
import pytest
from scipy.stats import binomtest, norm, t
from sklearn.metrics import average_precision_score, log_loss, roc_auc_score

from pcam_lightning.metrics.interval_text import MIN_SLIDES
from pcam_lightning.metrics.intervals import (
    difference_intervals,
    mean_intervals,
    metric_intervals,
    wilson,
)
from pcam_lightning.metrics.metrics import METRICS, compute_metrics, row_costs
from pcam_lightning.metrics.resampling import Resampling


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
    ours = metric_intervals(label, probability, resamples=30, seed=3)
    assert list(ours) == list(METRICS)
    for name, interval in expected.items():
        assert ours[name] == pytest.approx(interval, abs=1e-9), name


def test_by_slide_equals_a_jackknife_of_copies():
    label, probability, slide = random_table(200)
    names = np.unique(slide)
    share = [np.mean(slide == name) for name in names]
    counts = np.array([[np.sum((slide == n) & (label == c)) for n in names] for c in (0, 1)])
    degrees = min(counts.sum(1) ** 2 / (counts**2).sum(1)) - 1
    assert 0 < degrees < len(share) - 1

    def expected(score, forward, backward):
        value = forward(score(label, probability))
        kept = [slide != name for name in names]
        left = np.array([forward(score(label[rows], probability[rows])) for rows in kept])
        error = np.sqrt((len(names) - 1) / len(names) * np.sum((left - left.mean()) ** 2))
        reach = t.ppf(0.975, degrees) * error
        return backward(value - reach), backward(value + reach)

    ours = metric_intervals(label, probability, slide=slide)
    assert ours["log_loss"] == pytest.approx(expected(log_loss, np.log, np.exp), abs=1e-9)
    # Log-odds with half a success and half a failure more, of the smaller class.
    n = min(np.sum(label == 0), np.sum(label == 1))
    auroc = expected(
        roc_auc_score,
        lambda x: np.log((x * n + 0.5) / (n - x * n + 0.5)),
        lambda z: ((n + 1) / (1 + np.exp(-z)) - 0.5) / n,
    )
    assert ours["auroc"] == pytest.approx(auroc, abs=1e-9)


@pytest.mark.parametrize(("slides", "least"), [(5, 0.90), (20, 0.93), (60, 0.95)])
def test_intervals_by_slide_cover_the_truth(slides: int, least: float):
    # Slides shift all logits and differ in their share of tumour. The truth is that of 20,000.
    def draw(generator, count):
        place = np.repeat(np.arange(count), generator.integers(20, 40, count))
        label = generator.random(len(place)) < generator.uniform(0, 1, count)[place]
        logit = 1.5 * label + generator.normal(0, 1, count)[place]
        logit += generator.normal(size=len(place)) - 0.75
        return label.astype(int), 1 / (1 + np.exp(-logit)), place

    label, probability, _ = draw(np.random.default_rng(1), 20_000)
    truth = roc_auc_score(label, probability)
    samples, covered = 200, 0
    for seed in range(samples):
        label, probability, place = draw(np.random.default_rng(seed), slides)
        low, high = metric_intervals(label, probability, slide=place)["auroc"]
        covered += low <= truth <= high
    # At exactly this coverage, a lower share has a probability of 1 %.
    assert covered >= binomial_quantile(0.01, samples, least)


def binomial_quantile(level: float, trials: int, share: float) -> int:
    return next(k for k in range(trials) if binomtest(k, trials, share, "less").pvalue >= level)


def test_few_positives_leave_room_for_a_miss():
    # All of ten tumours are found: at a true sensitivity of 0.84, as happens in 17 % of samples.
    label = np.array([1] * 10 + [0] * 200)
    probability = np.where(label == 1, 0.9, 0.1)
    probability = np.where(np.arange(210) >= 207, 0.9, probability)
    found = metric_intervals(label, probability, resamples=200)
    expected = binomtest(10, 10).proportion_ci(method="wilson")
    assert found["sensitivity"] == pytest.approx((expected.low, 1.0))
    assert found["sensitivity"][0] < 0.84
    for name, (low, high) in found.items():
        assert low < high, name
    for name in ("auroc", "balanced_accuracy", "f2"):
        assert found[name][0] < compute_metrics(label, probability)[name] - 0.02, name


def test_proportions_have_wilsons_interval():
    for successes, trials in ((0, 4), (3, 7), (900, 1000)):
        expected = binomtest(successes, trials).proportion_ci(0.9, method="wilson")
        assert wilson(successes, trials, 0.9) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize(("tumours", "shift"), [(6, 1.5), (15, 2.5)])
def test_intervals_of_few_tumours_cover_the_truth(tumours: int, shift: float):
    truth = {"auroc": norm.cdf(shift / math.sqrt(2)), "sensitivity": norm.cdf(shift - 1)}
    truth["balanced_accuracy"] = (truth["sensitivity"] + norm.cdf(1)) / 2
    label = np.array([1] * tumours + [0] * 200)
    covered = dict.fromkeys(truth, 0)
    for seed in range(150):
        score = shift * label - 1 + np.random.default_rng(seed).normal(size=len(label))
        found = metric_intervals(label, 1 / (1 + np.exp(-score)), resamples=200, seed=seed)
        for name, true in truth.items():
            covered[name] += int(found[name][0] <= true <= found[name][1])
    for name, count in covered.items():
        assert count >= binomial_quantile(0.01, 150, 0.93), name


def test_slides_without_an_error_leave_room_for_one():
    label = np.tile([0, 1], 100)
    slide = np.arange(200) // 20
    probability = np.where(label == 1, 0.9, 0.1)
    low, high = metric_intervals(label, probability, slide=slide)["sensitivity"]
    one_miss = np.where(np.arange(200) == 1, 0.1, probability)
    expected = metric_intervals(label, one_miss, slide=slide)["sensitivity"][0]
    assert high == 1 and low == pytest.approx(expected)
    low, high = metric_intervals(1 - label, probability, slide=slide)["sensitivity"]
    assert low == 0 and high == pytest.approx(1 - expected)


@pytest.mark.parametrize("slides", [1, 2, MIN_SLIDES - 1])
def test_few_slides_have_no_interval(slides: int):
    label, probability, _ = random_table(200)
    slide = np.arange(200) % slides
    found = metric_intervals(label, probability, slide=slide)
    assert np.isnan(list(found.values())).all()
    assert np.isnan(
        list(difference_intervals(label, (probability, 1 - probability), slide=slide).values())
    ).all()


def test_differences_by_patch_and_by_slide():
    label, first, slide = random_table(600, slides=30)
    second = np.clip(first + np.random.default_rng(5).normal(0, 0.02, 600), 0, 1)
    gap = roc_auc_score(label, second) - roc_auc_score(label, first)
    for unit in (None, slide):
        low, high = difference_intervals(label, (first, second), slide=unit, resamples=200)["auroc"]
        assert low < gap < high
        alone = metric_intervals(label, second, slide=unit, resamples=200)["auroc"]
        assert high - low < (alone[1] - alone[0]) / 3  # common variation cancels


def test_the_standard_error_of_accuracy_is_binomial():
    generator = np.random.default_rng(0)
    label = generator.integers(2, size=2000)
    right = generator.random(2000) < 0.8
    probability = np.where(right == (label == 1), 0.9, 0.1)
    low, high = metric_intervals(label, probability, resamples=2000)["accuracy"]
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
        low, high = metric_intervals(label, probability, resamples=100, seed=seed)["auroc"]
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
            low, high = metric_intervals(label, probability, slide=unit, resamples=100, seed=seed)[
                "accuracy"
            ]
            by_slide += unit is not None and low <= 0.75 <= high
            by_patch += unit is None and low <= 0.75 <= high
    assert 0.87 <= by_slide / 60 <= 0.99
    assert by_patch / 60 < 0.75


def test_means_agree_with_brier_and_log_loss():
    label, probability, slide = random_table(2000, slides=40)
    costs = row_costs(label, probability)
    for unit, tolerance in (
        (None, 1e-9),
        (slide, 0.02),
    ):  # by slide, costs have a logarithmic scale
        expected = metric_intervals(label, probability, slide=unit, resamples=80, seed=2)
        brier, loss = mean_intervals(costs, Resampling(label, unit, 80, 2))
        assert brier == pytest.approx(expected["brier"], rel=tolerance)
        assert loss == pytest.approx(expected["log_loss"], rel=tolerance)


def test_seeds_and_levels():
    label, probability, slide = random_table(300)
    for unit in (None, slide):
        one = metric_intervals(label, probability, slide=unit, resamples=100, seed=1)
        assert one == metric_intervals(label, probability, slide=unit, resamples=100, seed=1)
        other = metric_intervals(label, probability, slide=unit, resamples=100, seed=2)
        assert (one == other) == (unit is not None)  # nothing is random by slide
        narrow = metric_intervals(label, probability, slide=unit, resamples=100, level=0.5)
        for name, value in compute_metrics(label, probability).items():
            low, high = narrow[name]
            assert one[name][0] < low < high < one[name][1]
            assert one[name][0] < value < one[name][1]


def test_undefined_resamples_are_left_out():
    # One tumour in 50 rows: 36 % of the resamples have none, and so no average precision.
    label = np.arange(50) == 0
    probability = np.linspace(0, 0.4, 50)
    intervals = metric_intervals(label, probability, resamples=200)
    assert intervals["average_precision"] == pytest.approx((0.02, 0.06), abs=0.03)
    assert np.isnan(intervals["precision"]).all()  # nothing is ever predicted tumour
    alone = metric_intervals([0, 0], [0.1, 0.2], resamples=50)
    assert np.isnan(alone["auroc"]).all()
    assert alone["specificity"] == pytest.approx(wilson(2, 2))


def test_a_metric_of_a_single_slide_has_no_interval():
    # All tumours lie on one slide: nothing is known about other slides with tumour.
    label, probability = (np.arange(100) < 10).astype(int), np.linspace(0.9, 0.1, 100)
    found = metric_intervals(label, probability, slide=np.arange(100) // 10)
    assert np.isnan(found["auroc"]).all() and not np.isnan(found["specificity"]).any()


def test_invalid_input_is_rejected():
    label, probability = [0, 1, 1], [0.1, 0.2, 0.9]
    with pytest.raises(ValueError, match="slide"):
        metric_intervals(label, probability, slide=["a", "b"])
    with pytest.raises(ValueError, match="slide"):
        metric_intervals(label, probability, slide=np.array(["a", "b", None]))
    with pytest.raises(ValueError, match="resamples"):
        metric_intervals(label, probability, resamples=0)
    with pytest.raises(ValueError, match="level"):
        metric_intervals(label, probability, level=95)
