import math

import numpy as np
import pytest
import torch
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression
from torchmetrics.functional.classification import binary_calibration_error

from pcam_lightning.metrics.calibration import (
    BINS,
    TEMPERATURES,
    calibrated,
    calibration_error,
    describe_error,
    fit_temperature,
    prior_offset,
    reliability,
)
from pcam_lightning.metrics.predictions import sigmoid


def logits(rows, temperature=1.0, seed=0):
    """Return labels drawn from calibrated logits, and the logits times the temperature."""
    generator = np.random.default_rng(seed)
    logit = generator.normal(0, 2, rows)
    label = (generator.random(rows) < sigmoid(logit)).astype(int)
    return label, logit * temperature


@pytest.mark.parametrize("seed", range(2))
def test_the_error_agrees_with_torchmetrics(seed):
    label, logit = logits(500, 2.0, seed)
    probability = sigmoid(logit)
    theirs = binary_calibration_error(
        torch.from_numpy(probability), torch.from_numpy(label), n_bins=BINS, norm="l1"
    )
    assert calibration_error(label, probability) == pytest.approx(float(theirs), abs=1e-6)


def test_the_bins_agree_with_scikit_learn():
    label, logit = logits(2000)
    bins = reliability(label, sigmoid(logit))
    share, mean = calibration_curve(label, sigmoid(logit), n_bins=BINS)
    np.testing.assert_allclose(bins["tumours"], share)
    np.testing.assert_allclose(bins["probability"], mean)
    assert bins["rows"].to_numpy().sum() == 2000
    low, high = bins["low"].to_numpy(), bins["high"].to_numpy()
    assert (low <= share).all() and (share <= high).all()


def test_the_error_by_hand():
    # A bin with probability 0.3 twice and one tumour, a bin with 0.9 once and one tumour.
    assert calibration_error([1, 0, 1], [0.3, 0.3, 0.9]) == pytest.approx((2 * 0.2 + 0.1) / 3)
    assert calibration_error([1, 0], [1.0, 0.0]) == 0  # the last bin includes 1


def test_wilsons_interval_by_hand():
    # 8 of 10, 95 %: 0.490 to 0.943.
    bins = reliability([1] * 8 + [0] * 2, [0.5] * 10)
    assert bins[["low", "high"]].to_numpy()[0] == pytest.approx([0.4902, 0.9433], abs=1e-4)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_a_temperature_is_recovered(temperature):
    label, logit = logits(20_000, temperature)
    found, remark = fit_temperature(label, logit)
    assert found is not None and remark is None
    # The same model: logistic regression on the logit without intercept.
    regression = LogisticRegression(fit_intercept=False, C=np.inf, tol=1e-8)
    slope = regression.fit(logit[:, None], label).coef_[0, 0]
    assert found == pytest.approx(1 / slope, rel=1e-3)
    assert found == pytest.approx(temperature, rel=0.05)
    before, after = (calibration_error(label, calibrated(logit, t)) for t in (1.0, found))
    assert after < before or temperature == 1


def test_data_without_a_likeliest_temperature():
    found, remark = fit_temperature([1, 1], [0.3, 2.0])
    assert found is None and "of one class" in str(remark)
    for margin in (1e-3, 2.0, 500.0):  # separable, however far
        found, remark = fit_temperature([1, 0, 0], [margin, -margin, -3 * margin])
        assert found is None and "without an error" in str(remark)
    found, remark = fit_temperature([0, 1], [2.0, -2.0])
    assert found == pytest.approx(TEMPERATURES[1], rel=0.01)
    assert "as far as the fit goes" in str(remark)


def test_a_prior_offset_corrects_balanced_training():
    # A model that is calibrated where classes are equally frequent, used where 10 % are tumour.
    generator = np.random.default_rng(0)
    label = (generator.random(100_000) < 0.1).astype(int)
    logit = generator.normal(np.where(label == 1, 0.5, -0.5), 1)  # log-odds at equal classes
    offset = prior_offset(0.1, 0.5)
    assert offset == pytest.approx(math.log(1 / 9))
    temperature, _ = fit_temperature(label, logit)
    corrected, _ = fit_temperature(label, logit, offset)
    assert corrected == pytest.approx(1, abs=0.03)
    errors = [
        calibration_error(label, calibrated(logit, *each))
        for each in ((1.0, 0.0), (temperature, 0.0), (corrected, offset))
    ]
    assert errors[0] > 0.1 and errors[1] > 0.1 and errors[2] < 0.005
    assert prior_offset(0.5, 0.5) == prior_offset(0.0, 0.5) == prior_offset(0.3, 1.0) == 0.0


def test_a_temperature_keeps_the_ranking():
    logit = np.array([-30.0, -1, 0, 1, 40])
    assert (np.diff(calibrated(logit, 7.0)) > 0).all()


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_intervals_cover_the_truth_at_their_level(temperature):
    # The true error, from a sample with negligible scatter.
    label, logit = logits(400_000, temperature, seed=1000)
    truth = 0.0 if temperature == 1 else calibration_error(label, sigmoid(logit))
    covered, repeats = 0, 80
    for seed in range(repeats):
        label, logit = logits(800, temperature, seed)
        error = describe_error(label, sigmoid(logit), resamples=150, seed=seed)
        assert 0 <= error["low"] <= error["value"] <= error["high"] <= 1
        covered += error["low"] <= truth <= error["high"]
    # At least 0.95 within chance; the next test limits the width.
    assert covered / repeats > 0.95 - 3 * math.sqrt(0.95 * 0.05 / repeats)


def test_the_width_of_intervals_follows_the_scatter():
    errors = []
    for seed in range(60):
        label, logit = logits(3000, 2.5, seed)
        errors.append(describe_error(label, sigmoid(logit), resamples=100, seed=seed))
    scatter = np.std([error["value"] for error in errors])
    width = np.mean([error["high"] - error["low"] for error in errors])
    assert 3.5 * scatter < width < 6 * scatter


def test_if_perfect_is_the_error_of_a_calibrated_model():
    values, expected, above = [], [], 0
    for seed in range(60):
        label, logit = logits(600, seed=seed)
        error = describe_error(label, sigmoid(logit), resamples=100, seed=seed)
        values.append(error["value"])
        expected.append(error["if_perfect"])
        above += error["value"] > error["if_perfect_high"]
    assert np.mean(values) == pytest.approx(np.mean(expected), rel=0.08)
    assert above <= 9  # of 60, where 3 are expected


def test_slides_make_the_interval_wider():
    generator = np.random.default_rng(0)
    slide = np.repeat(np.arange(20), 50)
    logit = generator.normal(0, 1, 1000)
    label = (generator.random(1000) < sigmoid(logit + generator.normal(0, 2, 20)[slide])) * 1
    by = [
        describe_error(label, sigmoid(logit), names, resamples=200)
        for names in (None, slide.astype(str))
    ]
    widths = [error["high"] - error["low"] for error in by]
    assert widths[1] > 1.5 * widths[0]
