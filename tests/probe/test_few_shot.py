"""Few-shot curves against scikit-learn."""

import logging

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from pcam_lightning.probe.few_shot import draw_rows, few_shot_curve


def test_draws_are_balanced_nested_and_of_the_seed() -> None:
    labels = np.random.default_rng(0).integers(0, 2, 200)
    few, more = draw_rows(labels, 3, 5, 7), draw_rows(labels, 20, 5, 7)
    for small, large in zip(few, more, strict=True):
        assert np.bincount(labels[small]).tolist() == [3, 3]
        assert np.bincount(labels[large]).tolist() == [20, 20]
        assert set(small) <= set(large) and len(set(large)) == 40
    assert len({tuple(rows) for rows in few}) == 5
    again, other = draw_rows(labels, 3, 5, 7), draw_rows(labels, 3, 5, 8)
    assert all(np.array_equal(a, b) for a, b in zip(few, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(few, other, strict=True))


def test_the_curve_is_that_of_scikit_learn(caplog) -> None:
    random = np.random.default_rng(0)
    labels, target = random.integers(0, 2, 120), random.integers(0, 2, 80)
    train, test = (
        (random.normal(size=(len(y), 16)) / 4 + 0.2 * y[:, None]).astype(np.float32)
        for y in (labels, target)
    )
    with caplog.at_level(logging.WARNING):
        curve = few_shot_curve(
            torch.from_numpy(train), labels, torch.from_numpy(test),
            lambda logit: roc_auc_score(target, logit), [5, 1, 1000], 4, 0.05, 3,
        )  # fmt: skip
    assert [each.patches for each in curve] == [1, 5]
    assert "1000" in caplog.text
    for each in curve:
        scores = []
        for rows in draw_rows(labels, each.patches, 4, 3):
            c = 1 / (0.05 * len(rows))
            model = LogisticRegression(C=c, tol=1e-8).fit(train[rows], labels[rows])
            scores.append(roc_auc_score(target, model.decision_function(test)))
        np.testing.assert_allclose(each.mean, np.mean(scores), atol=0.003)
        low, high = np.quantile(scores, [0.025, 0.975])
        np.testing.assert_allclose([each.low, each.high], [low, high], atol=0.005)
