import json
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from pcam_lightning.plots import history
from pcam_lightning.plots.history import plot_curves
from pcam_lightning.runs import Run
from pcam_lightning.runs.status import RunFileError

ALL = {
    *("loss.png", "metrics.png", "learning_rate.png"),
    *("gradient_norm.png", "gradient_layers.png"),
}


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "manifest.json").write_text(json.dumps({"dataset": {"name": "demo"}}))
    return tmp_path


@pytest.fixture
def figures(monkeypatch) -> dict[str, Figure]:
    """Every figure by its title; turning them into pixels, which takes longest, is left out."""
    drawn: dict[str, Figure] = {}

    def keep(figure: Figure, _: Path, subtitle: str) -> None:
        assert "dataset: demo" in subtitle
        drawn[figure.axes[0].get_title(loc="left")] = figure

    monkeypatch.setattr(history, "save", keep)
    return drawn


def _gradients(steps: int = 200) -> pd.DataFrame:
    step = np.arange(steps)
    norm = 0.5 + (step % 4)
    return pd.DataFrame(
        {
            "step": step,
            "epoch": step // 100,
            "loss": 0.7 - 0.001 * step,
            "lr": 0.01,
            "norm": norm,
            "norm_clipped": np.minimum(norm, 2.0),
            "norm/head.weight": norm,
        }
    )


def _metrics() -> pd.DataFrame:
    auroc = [0.7, 0.9, 0.8]
    val = [
        {"epoch": epoch, "step": 10 * epoch + 9, "val/loss": 0.6, "val/auroc": value, "val/f2": 0.5}
        for epoch, value in enumerate(auroc)
    ]
    train = [
        {"epoch": step // 10, "step": step, "train/loss": 0.5, "lr": 0.1} for step in range(30)
    ]
    return pd.DataFrame(train + val).sort_values("step")


class Drawn(NamedTuple):
    x: list[float]
    y: list[float]
    label: str


def _line(figure: Figure, label: str) -> Drawn:
    """The drawn line whose label in the legend starts with `label`."""
    lines = {str(line.get_label()): line for line in figure.axes[0].lines}
    name = next(name for name in lines if name.startswith(label))
    return Drawn(list(lines[name].get_xdata(True)), list(lines[name].get_ydata(True)), name)  # type: ignore[arg-type]


def test_a_full_history_gives_all_pictures(folder):
    _metrics().to_csv(folder / "metrics.csv", index=False)
    _gradients().to_parquet(folder / "gradients.parquet")
    written = plot_curves(Run(folder), folder / "plots")
    assert {path.name for path in written} == ALL
    assert {path.name for path in (folder / "plots").iterdir()} == ALL  # and no drafts
    for path in written:
        height, width, _ = imread(path).shape
        assert width > height > 500


def test_the_pictures_show_the_numbers(folder, figures):
    _metrics().to_csv(folder / "metrics.csv", index=False)
    _gradients().to_parquet(folder / "gradients.parquet")
    plot_curves(Run(folder), folder)

    loss = figures["Loss"]
    assert _line(loss, "train, as logged").y[150] == pytest.approx(0.55)
    # The mean of a straight line is that line.
    assert _line(loss, "train, mean").y[100] == pytest.approx(0.6)
    assert _line(loss, "val").x == [9, 19, 29]
    best = _line(loss, "best epoch 1")
    assert best.x[0] == 19 and "0.900" in best.label

    metrics = figures["Validation metrics"]
    assert _line(metrics, "0.900  AUROC").y == [0.7, 0.9, 0.8]
    assert _line(metrics, "0.500  F2").x == [0, 1, 2]

    norm = figures["Gradient norm"]
    assert norm.axes[0].get_yscale() == "log"
    assert max(_line(norm, "before").y) == 3.5
    assert max(_line(norm, "after").y) == 2.0
    threshold = _line(norm, "threshold 2")
    assert threshold.y[0] == 2.0 and "50.0%" in threshold.label


def test_steps_repeated_after_a_resume_count_once(folder, figures):
    again = _gradients().iloc[100:].assign(loss=0.1)
    pd.concat([_gradients(), again]).to_parquet(folder / "gradients.parquet")
    plot_curves(Run(folder), folder)
    line = _line(figures["Loss"], "train, as logged")
    assert line.x == list(range(200))
    assert line.y[99] == pytest.approx(0.601) and line.y[100] == 0.1


def test_a_spike_does_not_flatten_the_loss_and_is_counted(folder, figures):
    table = _gradients()
    table.loc[50, "loss"] = 1000.0
    table.to_parquet(folder / "gradients.parquet")
    plot_curves(Run(folder), folder)
    assert figures["Loss"].axes[0].get_ylim()[1] < 1
    assert _line(figures["Loss"], "train above").x == [50]


def test_norms_that_are_not_finite_are_shown_as_such(folder, figures):
    table = _gradients()
    table.loc[[3, 5], "norm"] = [np.nan, np.inf]
    table.loc[[3, 5], "norm_clipped"] = np.nan
    table.to_parquet(folder / "gradients.parquet")
    plot_curves(Run(folder), folder)
    assert _line(figures["Gradient norm"], "norm not finite").x == [3, 5]


def test_spikes_are_marked_where_they_are(folder, figures):
    table = _gradients()
    table.loc[50, "norm"], table.loc[60, "norm"] = 30.0, np.inf
    table["rows"] = [[1, 2] if step in (50, 60) else None for step in table["step"]]
    table.to_parquet(folder / "gradients.parquet")
    plot_curves(Run(folder), folder)
    spike = _line(figures["Gradient norm"], "spike (1 step)")
    assert (spike.x, spike.y) == ([50], [30.0])
    assert _line(figures["Gradient norm"], "norm not finite").x == [60]


@pytest.mark.parametrize("decades", [1, 3, 9])
def test_the_axis_of_norms_is_labeled_however_far_they_range(folder, figures, decades):
    table = _gradients()
    table["norm"] = np.logspace(-decades / 2, decades / 2, len(table))
    table.drop(columns="norm_clipped").to_parquet(folder / "gradients.parquet")
    plot_curves(Run(folder), folder)
    axes = figures["Gradient norm"].axes[0]
    low, high = axes.get_ylim()
    assert 3 <= sum(low <= tick <= high for tick in axes.get_yticks()) <= 10


def test_parameter_groups_keep_their_own_learning_rates(folder, figures):
    table = _metrics().drop(columns="lr")
    table["lr-AdamW/pg1"], table["lr-AdamW/pg2"] = 0.1, 0.01
    table.to_csv(folder / "metrics.csv", index=False)
    _gradients().to_parquet(folder / "gradients.parquet")
    plot_curves(Run(folder), folder)
    assert set(_line(figures["Learning rate"], "lr-AdamW/pg2").y) == {0.01}


@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        ([], set()),
        (["epoch", "step"], set()),
        (["val/auroc"], set()),
        (["epoch", "step", "train/loss"], {"loss.png"}),
        (["epoch", "val/auroc"], {"metrics.png"}),
        (["epoch", "step", "val/f2"], {"metrics.png"}),
        (["step", "lr"], {"learning_rate.png"}),
        (["epoch", "step", "val/loss"], {"loss.png"}),
    ],
)
def test_what_the_log_lacks_is_left_out(folder, figures, keep, expected):
    if keep:
        _metrics()[keep].to_csv(folder / "metrics.csv", index=False)
    assert {path.name for path in plot_curves(Run(folder), folder)} == expected


@pytest.mark.parametrize(
    ("lacking", "left_out"),
    [
        ("step", {"loss.png", "learning_rate.png", "gradient_norm.png", "gradient_layers.png"}),
        ("loss", {"loss.png"}),
        ("lr", {"learning_rate.png"}),
        ("norm", {"gradient_norm.png"}),
        ("norm_clipped", set()),
        ("norm/head.weight", {"gradient_layers.png"}),
    ],
)
def test_what_the_gradients_lack_is_left_out(folder, figures, lacking, left_out):
    _gradients().drop(columns=lacking).to_parquet(folder / "gradients.parquet")
    written = {path.name for path in plot_curves(Run(folder), folder)}
    assert written == ALL - {"metrics.png"} - left_out


def test_one_step_and_one_epoch_are_enough(folder):
    _metrics().tail(1).to_csv(folder / "metrics.csv", index=False)
    _gradients(1).to_parquet(folder / "gradients.parquet")
    assert {path.name for path in plot_curves(Run(folder), folder)} == ALL


def test_columns_without_a_number_are_left_out(folder, figures):
    table = _metrics().assign(**{"val/auroc": np.nan, "val/f2": np.nan, "val/loss": "n/a"})
    table.to_csv(folder / "metrics.csv", index=False)
    written = {path.name for path in plot_curves(Run(folder), folder)}
    assert written == {"loss.png", "learning_rate.png"}


def test_a_name_with_dollar_signs_is_a_name(tmp_path):
    (tmp_path / "manifest.json").write_text(json.dumps({"dataset": {"name": "$\\undefined$"}}))
    _metrics()[["epoch", "val/f2"]].to_csv(tmp_path / "metrics.csv", index=False)
    assert plot_curves(Run(tmp_path), tmp_path)


def test_a_damaged_table_is_not_passed_over(folder):
    (folder / "gradients.parquet").write_bytes(b"PAR1")
    with pytest.raises(RunFileError, match=r"gradients\.parquet"):
        plot_curves(Run(folder), folder)


def test_pyplot_is_never_imported(folder, monkeypatch):
    _gradients().to_parquet(folder / "gradients.parquet")
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # makes its import fail
    assert plot_curves(Run(folder), folder)
