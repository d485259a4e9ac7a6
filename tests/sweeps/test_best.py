"""Tests of the selection of the best configuration."""

from pathlib import Path

import numpy as np
import pytest
from sweep_files import scores, write_run

from pcam_lightning.slurm.jobs import job_states
from pcam_lightning.sweeps.best import best_configuration, expected_optimism
from pcam_lightning.sweeps.table import Result, group_by_configuration


@pytest.fixture
def choose(tmp_path: Path):
    """Write configurations (name: val scores for each seed, None if failed) and select one."""

    def select(metric: str, **given) -> tuple[str | None, str]:
        for place, (name, seeds) in enumerate(given.items()):
            for seed, val in enumerate(seeds):
                folder, started = tmp_path / f"{name}{seed}", f"2026-01-01T00:00:{place:02}"
                overrides = [f"model={name}", f"seed={seed}"]
                state = "finished" if val else "failed"
                write_run(folder, overrides, val, state=state, started=started)
        results = [Result.of(job) for job in job_states(tmp_path)]
        best, reason = best_configuration(group_by_configuration(results), metric)
        return best and best.name, reason

    return select


def test_the_best_mean_wins_not_the_best_run(choose) -> None:
    lucky = [scores(auroc=0.99), scores(auroc=0.6)]
    steady = [scores(auroc=0.81), scores(auroc=0.8)]
    best, reason = choose("auroc", lucky=lucky, steady=steady)
    assert best == "model=steady"
    assert "validation auroc" in reason and "2 of 2 configurations" in reason


def test_lower_is_better_for_a_loss(choose) -> None:
    best, _ = choose("log_loss", a=[scores(log_loss=0.3)], b=[scores(log_loss=0.2)])
    assert best == "model=b"


def test_constant_predictions_never_win(choose) -> None:
    constant = scores(auroc=0.5, f2=0.833, sensitivity=1.0, specificity=0.0)
    real = scores(auroc=0.9, f2=0.82)
    best, reason = choose("f2", constant=[constant], real=[real])
    assert best is None
    assert "constant" in reason and "f2" in reason


def test_a_model_that_beats_the_constants_wins(choose) -> None:
    constant = scores(auroc=0.5, f2=0.833)
    assert choose("f2", constant=[constant], real=[scores(f2=0.834)])[0] == "model=real"


def test_sensitivity_cannot_be_won_since_a_constant_is_perfect(choose) -> None:
    assert choose("sensitivity", a=[scores(sensitivity=1.0)])[0] is None


def test_a_configuration_with_a_failed_run_is_not_eligible(choose) -> None:
    better = [scores(auroc=0.99), None]
    assert choose("auroc", better=better, whole=[scores(auroc=0.8)])[0] == "model=whole"


def test_nothing_finished(choose) -> None:
    best, reason = choose("auroc", a=[None])
    assert best is None
    assert "auroc" in reason


def test_an_undefined_score_cannot_win(choose) -> None:
    assert choose("auroc", a=[scores(auroc=None)])[0] is None


def test_a_tie_goes_to_the_lower_log_loss_then_to_the_first(choose) -> None:
    a, b = scores(auroc=0.8, log_loss=0.5), scores(auroc=0.8, log_loss=0.4)
    assert choose("auroc", a=[a], b=[b], c=[b])[0] == "model=b"


def test_rounding_does_not_decide_a_tie(choose) -> None:
    # The mean of the first three differs from that of the same three in another order by 1e-16.
    values = [0.7, 0.6, 0.95]
    a = [scores(auroc=each, log_loss=0.4) for each in values]
    b = [scores(auroc=each, log_loss=0.3) for each in values[::-1]]
    assert choose("auroc", a=a, b=b)[0] == "model=b"


def test_one_lucky_seed_does_not_beat_three(choose) -> None:
    steady = [scores(auroc=each) for each in (0.8, 0.81, 0.82)]
    best, reason = choose("auroc", lucky=[scores(auroc=0.99)], steady=steady)
    assert best == "model=steady" and "1 with fewer than 3 seeds" in reason


def test_a_repeated_seed_counts_once(tmp_path: Path) -> None:
    for name, seeds in {"twice": (1, 1, 2), "three": (1, 2, 3)}.items():
        for place, seed in enumerate(seeds):
            val = scores(auroc=0.9 if name == "twice" else 0.8 + seed / 100)
            write_run(tmp_path / f"{name}{place}", [f"model={name}", f"seed={seed}"], val)
    found = group_by_configuration([Result.of(job) for job in job_states(tmp_path)])
    assert {each.name: each.seeds for each in found} == {"model=three": 3, "model=twice": 2}
    best, _ = best_configuration(found, "auroc")
    assert best is not None and best.name == "model=three"
    assert len(next(each for each in found if each.seeds == 2).scores("val", "auroc")) == 2


def test_the_expected_optimism_is_that_of_a_simulation(tmp_path: Path) -> None:
    # Six equally good configurations with three seeds each.
    generator = np.random.default_rng(0)
    drawn = generator.normal(0, 0.01, (100_000, 6, 3)).mean(axis=2).max(axis=1).mean()
    offsets = 0.01 * np.array([-1, 0, 1])  # their sample deviation is 0.01
    for place in range(6):
        for seed, offset in enumerate(offsets):
            val = scores(auroc=0.9 + float(offset))
            write_run(tmp_path / f"{place}_{seed}", [f"model={place}", f"seed={seed}"], val)
    found = group_by_configuration([Result.of(job) for job in job_states(tmp_path)])
    best, _ = best_configuration(found, "auroc")
    assert best is not None
    assert expected_optimism(found, best, "auroc") == pytest.approx(drawn, rel=0.01)
    single = group_by_configuration([each.results[0] for each in found])
    best, _ = best_configuration(single, "auroc")
    assert best is not None and expected_optimism(single, best, "auroc") is None


def test_scores_on_test_are_ignored(tmp_path: Path) -> None:
    write_run(tmp_path / "0", ["model=a"], scores(auroc=0.8), scores(auroc=0.1))
    write_run(tmp_path / "1", ["model=b"], scores(auroc=0.7), scores(auroc=0.99))
    best, _ = best_configuration(
        group_by_configuration([Result.of(job) for job in job_states(tmp_path)]), "auroc"
    )
    assert best is not None and best.name == "model=a"


def test_different_data_sets_are_not_compared(tmp_path: Path) -> None:
    write_run(tmp_path / "0", ["model=a"], dataset="demo")
    write_run(tmp_path / "1", ["model=b"], dataset="pcam")
    best, reason = best_configuration(
        group_by_configuration([Result.of(job) for job in job_states(tmp_path)]), "auroc"
    )
    assert best is None
    assert "demo, pcam" in reason
