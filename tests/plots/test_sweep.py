"""Tests of the pictures of a sweep."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats
from sweep_files import scores, write_run

from pcam_lightning.plots.sweep import (
    interval,
    plot_effects,
    plot_parallel,
    plot_seeds,
    plot_sweep,
)
from pcam_lightning.slurm.jobs import job_states
from pcam_lightning.sweeps.table import Configuration, Result, group_by_configuration


def write_sweep(folder: Path, count: int = 4, seeds: int = 2) -> list[Configuration]:
    for place in range(count):
        for seed in range(seeds):
            rate = 10.0 ** -(place % 4)
            overrides = [f"optimizer.lr={rate}", f"model=m{place % 3}$", f"x={place}"]
            write_run(
                folder / f"{place:02}{seed}",
                [*overrides, f"seed={seed}"],
                scores(auroc=0.7 + 0.005 * place + 0.001 * seed),
            )
    return group_by_configuration([Result.of(job) for job in job_states(folder)])


def labels(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.mark.parametrize("values", [[0.8, 0.9], [0.8, 0.81, 0.86, 0.9, 0.7]])
def test_the_interval_equals_scipys_t_interval(values: list[float]) -> None:
    low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
    assert interval(np.array(values)) == pytest.approx((high - low) / 2)


def test_one_seed_has_no_interval(tmp_path: Path) -> None:
    assert np.isnan(interval(np.array([0.5])))
    for seeds, bars in ((1, 0), (2, 4)):
        (axes,) = plot_seeds(write_sweep(tmp_path / str(seeds), seeds=seeds), "auroc", None).axes
        drawn = [path for lines in axes.collections for path in lines.get_paths()]
        assert len([path for path in drawn if np.size(path.vertices)]) == bars


@pytest.mark.parametrize("count", [1, 40])
def test_all_configurations_are_named_best_on_top(tmp_path: Path, count: int) -> None:
    found = write_sweep(tmp_path, count)
    figure = plot_seeds(found, "auroc", found[-1])
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_yticklabels()] == [
        configuration.name.replace("optimizer.lr", "lr") for configuration in reversed(found)
    ]
    assert axes.get_ylim()[1] < axes.get_ylim()[0]  # position 0 is on top
    assert any(label.startswith("best constant, 0.500") for label in labels(figure))
    assert "run of the best configuration" in labels(figure)


def test_every_run_is_a_point(tmp_path: Path) -> None:
    found = write_sweep(tmp_path, 4)
    (axes,) = plot_seeds(found, "auroc", None).axes
    drawn = [x for line in axes.lines if line.get_marker() == "o" for x in line.get_xdata()]  # type: ignore[union-attr]
    expected = [value for each in found for value in each.scores("val", "auroc")]
    assert sorted(drawn) == sorted(expected)


def test_effects_are_means_by_value(tmp_path: Path) -> None:
    found = write_sweep(tmp_path, 12)
    figure = plot_effects(found, list(found[0].values), "auroc")
    panels = {axes.get_xlabel(): axes for axes in figure.axes if axes.get_visible()}
    assert list(panels) == ["optimizer.lr", "model", "x"]
    drawn = [np.asarray(each.get_ydata(), float) for each in panels["optimizer.lr"].lines]
    assert ticks(panels["optimizer.lr"]) == ["0.001", "0.01", "0.1", "1.0"]
    expected = [
        float(np.mean([s.mean("val", "auroc") for s in found if s.values["optimizer.lr"] == value]))
        for value in ("0.001", "0.01", "0.1", "1.0")
    ]
    assert any(len(values) == 4 and np.allclose(values, expected) for values in drawn)


def test_a_rate_has_a_log_axis(tmp_path: Path) -> None:
    found = write_sweep(tmp_path, 4)
    (axes,) = plot_parallel(found, ["optimizer.lr", "model"], "auroc", found[-1]).axes
    heights = {text.get_text(): text.xy[1] for text in axes.texts}  # type: ignore[attr-defined]
    assert [heights[value] for value in ("0.001", "0.01", "0.1", "1.0")] == pytest.approx(
        [0, 1 / 3, 2 / 3, 1]
    )
    assert ticks(axes) == ["optimizer.lr", "model", "val AUROC"]


@pytest.mark.parametrize("metric", ["log_loss", "precision"])  # lower is better; undefined constant
def test_all_pictures(tmp_path: Path, metric: str) -> None:
    found = write_sweep(tmp_path / "runs", 4)
    written = plot_sweep(tmp_path / "a", found, metric, found[0], "a$b$c")
    assert [path.name for path in written] == ["seeds.png", "effects.png", "parallel.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written)


def test_pictures_without_content_are_left_out(tmp_path: Path) -> None:
    found = group_by_configuration(write_sweep(tmp_path / "runs", 1)[0].results)
    (alone,) = plot_sweep(
        tmp_path / "a", group_by_configuration(found[0].results), "auroc", None, "demo"
    )
    assert alone.name == "seeds.png"
    assert plot_sweep(tmp_path / "b", [], "auroc", None, "demo") == []


def ticks(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.get_xticklabels()]
