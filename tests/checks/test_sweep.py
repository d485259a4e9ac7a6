"""Checks of sweeps against SciPy and cases worked by hand."""

from pathlib import Path

import check_folders as made
import numpy as np
import pytest
from scipy.stats import ttest_ind

from pcam_lightning.checks.inputs import Folder, Inputs, find_inputs
from pcam_lightning.checks.sweep import configurations, lead, search_range, seeds


def sweep_of(root: Path, scores: dict[float, list[float]]) -> Folder:
    """Write runs with these validation AUROCs by learning rate, one per seed."""
    for rate, values in scores.items():
        for seed, value in enumerate(values):
            made.write_train(root / f"{rate}_{seed}", rate, seed, value)
    (sweep,) = find_inputs([root]).of_kind("sweep")
    return sweep


@pytest.mark.parametrize("gap", [0.001, 0.01, 0.02, 0.03, 0.05])
def test_the_lead_of_two_configurations_is_a_t_test(gap: float, tmp_path: Path) -> None:
    spread = np.array([-0.011, 0.002, 0.009])
    values = {0.1: list(0.8 + spread), 0.01: list(0.8 + gap + spread[::-1])}
    expected = ttest_ind(values[0.1], values[0.01]).pvalue >= 0.05  # type: ignore[attr-defined]
    found = lead(sweep_of(tmp_path, values), Inputs(()))
    assert found.state == ("issue" if expected else "passed")


def test_seeds_do_not_make_configurations(tmp_path: Path) -> None:
    found = configurations(sweep_of(tmp_path, {0.1: [0.7, 0.8], 0.01: [0.9]}))
    assert {each.name: each.scores("val", "auroc").tolist() for each in found} == {
        "optimizer.lr=0.1": [0.7, 0.8],
        "optimizer.lr=0.01": [0.9],
    }
    (single,) = configurations(sweep_of(tmp_path / "single", {0.1: [0.7, 0.8, 0.9]}))
    assert single.values == {} and single.mean("val", "auroc") == pytest.approx(0.8)


def test_few_seeds_of_one_configuration_are_a_tip(tmp_path: Path) -> None:
    assert seeds(sweep_of(tmp_path, {0.1: [0.7]}), Inputs(())).state == "tip"


@pytest.mark.parametrize(
    ("best", "state"), [(0.001, "tip"), (0.01, "passed"), (0.1, "passed"), (1.0, "tip")]
)
def test_only_the_ends_of_a_range_are_its_edge(best: float, state: str, tmp_path: Path) -> None:
    rates = (0.001, 0.01, 0.1, 1.0)
    sweep = sweep_of(tmp_path, {rate: [0.9 if rate == best else 0.8] for rate in rates})
    assert search_range(sweep, Inputs(())).state == state


def test_an_unfinished_run_has_no_score(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, {0.1: [0.7, 0.8], 0.01: [0.9]})
    (tmp_path / "0.01_0" / "summary.json").unlink()
    assert [each.name for each in configurations(sweep)] == ["(default)"]
