"""Logistic regression against scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from pcam_lightning.probe.logistic import Curvature, Standardization, fit, fit_each

PENALTIES = (1e-4, 1e-2, 1.0)


@pytest.fixture
def data() -> tuple[np.ndarray, np.ndarray]:
    """Correlated features of different scales that separate the classes in part."""
    random = np.random.default_rng(0)
    raw = random.normal(size=(400, 12)) @ random.normal(size=(12, 12)) * 10.0 ** np.arange(-3, 9)
    score = raw[:, 0] / raw[:, 0].std() + random.normal(size=400)
    return (raw + 5).astype(np.float32), (score > 0.3).astype(np.int64)


def reference(features: np.ndarray, labels: np.ndarray, penalty: float) -> LogisticRegression:
    c = 1 / (penalty * len(features))
    return LogisticRegression(C=c, tol=1e-9, max_iter=10_000).fit(features.astype(float), labels)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_all_penalties_give_the_weights_of_scikit_learn(data, dtype: torch.dtype) -> None:
    raw, labels = data
    tensor = torch.from_numpy(raw)
    standardize = Standardization.of(tensor)
    features = standardize(tensor.clone())
    penalties = torch.tensor(PENALTIES)
    factor = Curvature(features, dtype).factor(penalties)
    found = fit(features, torch.from_numpy(labels), penalties, factor)
    assert found.converged
    for index, penalty in enumerate(PENALTIES):
        expected = reference(features.numpy(), labels, penalty)
        scale = np.abs(expected.coef_).max()
        np.testing.assert_allclose(found.weight[index], expected.coef_[0], atol=0.02 * scale)
        np.testing.assert_allclose(found.bias[index], np.ravel(expected.intercept_)[0], atol=0.02)
        logits = torch.from_numpy(expected.decision_function(features.numpy()))
        loss = torch.nn.functional.softplus(
            torch.where(torch.from_numpy(labels) > 0, -logits, logits)
        )
        objective = loss.mean() + penalty / 2 * (expected.coef_**2).sum()
        np.testing.assert_allclose(found.loss[index], objective, rtol=1e-4)


def test_folded_weights_give_the_same_logits_on_raw_features(data) -> None:
    raw, labels = data
    raw[:, 3] = 7  # a constant feature
    tensor = torch.from_numpy(raw)
    standardize = Standardization.of(tensor)
    features = standardize(tensor.clone())
    assert (features[:, 3] == 0).all() and features.isfinite().all()
    norm = features.square().sum(1).mean()
    np.testing.assert_allclose(norm, 11 / 12, rtol=1e-4)
    penalties = torch.tensor([1e-2])
    found = fit(
        features, torch.from_numpy(labels), penalties, Curvature(features).factor(penalties)
    )
    weight, bias = standardize.fold(found.weight, found.bias)
    logits = tensor.double() @ weight.T.double() + bias.double()
    expected = features @ found.weight.T + found.bias
    np.testing.assert_allclose(logits, expected, atol=1e-3)


def test_more_features_than_rows_can_be_fitted() -> None:
    random = np.random.default_rng(1)
    features = torch.from_numpy(random.normal(size=(20, 64)).astype(np.float32))
    features = Standardization.of(features)(features)
    labels = torch.arange(20) % 2
    penalties = torch.tensor([1e-6, 1e-2])
    found = fit(features, labels, penalties, Curvature(features, torch.bfloat16).factor(penalties))
    expected = reference(features.numpy(), labels.numpy(), 1e-2)
    scale = np.abs(expected.coef_).max()
    np.testing.assert_allclose(found.weight[1], expected.coef_[0], atol=0.02 * scale)


def test_each_small_data_set_has_its_own_fit(data) -> None:
    raw, labels = data
    tensor = torch.from_numpy(raw)
    features = Standardization.of(tensor)(tensor)
    random = np.random.default_rng(2)
    classes = [np.flatnonzero(labels == label) for label in (0, 1)]
    rows = np.stack([np.concatenate([random.choice(c, 6, False) for c in classes]) for _ in "abc"])
    found = fit_each(features[rows], torch.from_numpy(labels[rows]), 0.01)
    assert found.converged
    for index, chosen in enumerate(rows):
        expected = reference(features[chosen].numpy(), labels[chosen], 0.01)
        scale = np.abs(expected.coef_).max()
        np.testing.assert_allclose(found.weight[index], expected.coef_[0], atol=0.02 * scale)
