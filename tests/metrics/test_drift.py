"""Drift is the Kolmogorov-Smirnov distance beyond what slides differ by."""

import numpy as np
import pytest
from scipy.stats import ks_2samp

from pcam_lightning.metrics.drift import FEWEST, compare_features, reference


def test_the_distance_is_that_of_all_values() -> None:
    rng = np.random.default_rng(0)
    training, new = rng.normal(size=4000), rng.normal(0.5, 1.2, size=700)
    found = compare_features(reference({"hue": training}), {"hue": new})["hue"]
    assert found["distance"] == pytest.approx(ks_2samp(training, new).statistic, abs=0.005)  # type: ignore[union-attr]
    assert found["training_median"] == pytest.approx(np.median(training), abs=1e-6)


@pytest.mark.parametrize(("shift", "drifted"), [(0.0, False), (0.3, False), (2.0, True)])
@pytest.mark.parametrize("count", [50, 5000])
def test_a_small_shift_is_none_and_a_large_one_is(shift: float, drifted: bool, count: int) -> None:
    rng = np.random.default_rng(1)
    known = reference({"hue": rng.normal(size=4000)})
    found = compare_features(known, {"hue": rng.normal(shift, 1, size=count)})
    assert found["hue"]["drifted"] == drifted


def test_equal_values_are_no_drift() -> None:
    """Most patches have no blank pixel: the distribution is one point and a tail."""
    blank = np.r_[np.zeros(3000), np.linspace(0, 1, 1000)]
    found = compare_features(reference({"blank": blank}), {"blank": blank})
    assert found["blank"]["distance"] < 0.01


def test_few_patches_are_not_judged() -> None:
    known = reference({"hue": np.arange(100.0)})
    assert compare_features(known, {"hue": np.full(FEWEST - 1, 1e6)}) == {}
