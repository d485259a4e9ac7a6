"""Tests of the selection of the best configuration."""

from pathlib import Path

import pytest
from sweep_files import scores, write_run

from pcam_lightning.collect.best import best_configuration
from pcam_lightning.collect.table import Result, group_by_configuration
from pcam_lightning.slurm.jobs import job_states


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
