"""Tests of the tables of runs and configurations, compared with NumPy."""

import math
from pathlib import Path

import numpy as np
import pytest
from sweep_files import scores, write_run

from pcam_lightning.slurm.jobs import job_states
from pcam_lightning.sweeps.table import (
    Result,
    configurations_table,
    group_by_configuration,
    hidden_keys,
    runs_table,
    swept_keys,
)


def found(folder: Path):
    return group_by_configuration([Result.of(job) for job in job_states(folder)])


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    """Two networks with three seeds each; one more key has the same value in all runs."""
    values = np.random.default_rng(0).uniform(0.6, 1, (2, 3))
    for row, model in enumerate(("cnn", "mlp")):
        for seed in range(3):
            overrides = [f"model={model}", "trainer.max_epochs=2", f"seed={seed}"]
            value = float(values[row, seed])
            write_run(
                tmp_path / f"{row}{seed}",
                overrides,
                scores(auroc=value),
                scores(auroc=value / 2, log_loss=None),
                started=f"2026-01-01T00:00:{row}{seed}",
            )
    return tmp_path


def test_means_and_deviations_equal_numpys(grid: Path) -> None:
    values = np.random.default_rng(0).uniform(0.6, 1, (2, 3))
    table = configurations_table(found(grid)).set_index("model")
    assert list(table["setting"]) == ["model=cnn", "model=mlp"]
    assert table[["jobs", "finished", "seeds"]].to_numpy().tolist() == [[3] * 3] * 2
    np.testing.assert_allclose(table["val/auroc_mean"], values.mean(axis=1))
    np.testing.assert_allclose(table["val/auroc_sd"], values.std(axis=1, ddof=1))
    np.testing.assert_allclose(table["test/auroc_mean"], values.mean(axis=1) / 2)
    assert all(math.isnan(value) for value in table["test/log_loss_mean"])
    assert list(table["patches_per_second_mean"]) == [1000.0, 1000.0]
    assert list(table["seconds_sd"]) == [0.0, 0.0]


def test_one_seed_has_no_deviation(tmp_path: Path) -> None:
    write_run(tmp_path / "0", ["seed=1"], scores(auroc=0.75))
    (row,) = configurations_table(found(tmp_path)).to_dict("records")
    assert row["val/auroc_mean"] == 0.75 and math.isnan(row["val/auroc_sd"])
    assert row["setting"] == "(default)"


def test_unfinished_runs_are_counted_and_not_averaged(tmp_path: Path) -> None:
    write_run(tmp_path / "0", ["seed=1"], scores(auroc=0.75))
    write_run(tmp_path / "1", ["seed=2"], state="failed", error="boom")
    write_run(tmp_path / "2", ["seed=3"], state="running")
    (row,) = configurations_table(found(tmp_path)).to_dict("records")
    assert [row[key] for key in ("jobs", "finished", "failed", "running")] == [3, 1, 1, 1]
    assert row["val/auroc_mean"] == 0.75


def test_metrics_beaten_by_a_constant(tmp_path: Path) -> None:
    write_run(tmp_path / "0", ["seed=1"], scores(f2=0.83, sensitivity=0.99))
    write_run(tmp_path / "1", ["seed=2"], scores(f2=0.82, sensitivity=0.99), started="2026-02")
    (row,) = configurations_table(found(tmp_path)).to_dict("records")
    assert row["val/beaten_by_constant"] == "f2"
    assert row["test/beaten_by_constant"] == ""


def test_a_row_for_each_run(grid: Path) -> None:
    write_run(grid / "9", ["seed=9"], state="failed", error="boom", started="2026-01-02")
    table = runs_table(found(grid))
    assert list(table["seed"]) == [0, 1, 2, 0, 1, 2, 9]
    assert list(table["model"]) == ["cnn"] * 3 + ["mlp"] * 3 + ["(default)"]
    assert list(table["state"]) == ["finished"] * 6 + ["failed"]
    assert table["error"].iloc[-1] == "boom"
    assert set(table["commit"]) == {"abc"} and set(table["node"]) == {"box"}
    assert table["folder"].iloc[0] == str(grid / "00")


@pytest.mark.parametrize(
    ("overrides", "keys"),
    [
        ([["seed=1"], ["seed=2"]], []),
        ([["a=1", "b=1"], ["a=1", "b=2"]], ["b"]),
        ([["+a=1"], []], ["a"]),
        ([["a=1"], ["++a=1"]], []),
        ([["~a"], []], ["~a"]),
        ([["x=[1,2]"], ["x='a=b'"]], ["x"]),
        ([["hydra.launcher.partition=a"], ["hydra.launcher.partition=b"]], []),
    ],
)
def test_swept_keys(tmp_path: Path, overrides: list[list[str]], keys: list[str]) -> None:
    for number, each in enumerate(overrides):
        write_run(tmp_path / str(number), each)
    assert swept_keys(job_states(tmp_path)) == keys


BASE = {"seed": 1, "run_dir": "/s/0", "optimizer": {"lr": 0.1}, "data": {"seed": 1, "root": "/a"}}


# The overrides are seed=1 and seed=2. The two runs belong to the same configuration unless their
# configs differ in a key that can change scores and does not follow the seed.
@pytest.mark.parametrize(
    ("changes", "dataset", "key"),
    [
        ({}, "demo", None),
        ({"data": {"seed": 2, "root": "/b"}, "run_dir": "/s/1"}, "demo", None),
        ({"callbacks": {"a": {"path": "/s/1/a"}}, "run_dir": "/s/1"}, "demo", None),
        ({"logger": {"a": 1}, "experiment_name": "x"}, "demo", None),
        ({"optimizer": {"lr": 0.5}}, "demo", "optimizer.lr"),
        ({"optimizer": {"lr": 0.1, "momentum": 0.9}}, "demo", "optimizer.momentum"),
        ({"data": {"seed": 7, "root": "/a"}}, "demo", "data.seed"),
        ({"callbacks": {"a": {"path": "/s/10/a"}}, "run_dir": "/s/1"}, "demo", "callbacks.a.path"),
        ({}, "pcam", "dataset"),
    ],
)
def test_runs_of_different_configs_are_never_averaged(
    tmp_path: Path, changes: dict, dataset: str, key: str | None
) -> None:
    first = BASE | ({"callbacks": {"a": {"path": "/s/0/a"}}} if "callbacks" in changes else {})
    second = BASE | {"seed": 2, "data": {"seed": 2, "root": "/a"}} | changes
    write_run(tmp_path / "0", ["seed=1"], scores(auroc=0.6), config=first)
    write_run(tmp_path / "1", ["seed=2"], scores(auroc=0.8), config=second, dataset=dataset)
    write_run(tmp_path / "2", ["seed=3"], state="running")
    rows = found(tmp_path)
    assert hidden_keys(rows) == [key] * (key is not None)
    finished = [row for row in rows if any(each.summary for each in row.results)]
    means = [pytest.approx(0.7)] if key is None else [0.6, 0.8]
    assert [row.mean("val", "auroc") for row in finished] == means
    assert len({tuple(row.values) for row in rows}) == 1 and len({row.name for row in rows}) == len(
        rows
    )
    if key == "optimizer.lr":
        names = ["optimizer.lr=0.1", "optimizer.lr=0.5", "optimizer.lr=(unknown)"]
        assert [row.name for row in rows] == names


def test_a_key_that_follows_the_seed_makes_no_configuration(tmp_path: Path) -> None:
    for seed in (1, 2):
        overrides = [f"seed={seed}", f"data.seed={seed}"]
        write_run(tmp_path / str(seed), overrides, scores(auroc=0.9), scores(auroc=0.8))
    (only,) = found(tmp_path)
    assert only.seeds == 2 and only.name == "(default)"
