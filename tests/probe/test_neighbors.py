"""Nearest neighbors against scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from pcam_lightning.probe import neighbors


@pytest.mark.parametrize("held", [100, 2**25])  # in chunks, and at once
def test_shares_are_those_of_scikit_learn(held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbors, "SIMILARITIES", held)
    random = np.random.default_rng(0)
    train, queries = (random.normal(size=(n, 8)).astype(np.float32) for n in (90, 31))
    labels = random.integers(0, 2, 90)
    counts = [1, 5, 90]
    shares = neighbors.neighbor_shares(
        torch.from_numpy(train.copy()), torch.from_numpy(labels), torch.from_numpy(queries), counts
    )
    for column, count in enumerate(counts):
        model = KNeighborsClassifier(count, metric="cosine", algorithm="brute").fit(train, labels)
        expected = model.predict_proba(queries)[:, 1]
        np.testing.assert_allclose(shares[:, column], expected, atol=1e-6)
