"""Plots of a run's history: loss, validation metrics, learning rate, gradients."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pcam_lightning.plots.layers import plot_layers
from pcam_lightning.plots.style import (
    BLUE,
    CYCLE,
    INK,
    ORANGE,
    PINK,
    SKY,
    count_steps,
    legend,
    log_scale,
    mark_best,
    mark_edge,
    new_figure,
    plain_number,
    save,
    whole_numbers,
)
from pcam_lightning.runs.run import MissingRunFileError, Run
from pcam_lightning.runs.status import RunFileError

if TYPE_CHECKING:
    import numpy as np
    import pandas
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

METRIC_NAMES = {
    "val/auroc": "AUROC",
    "val/average_precision": "average precision",
    "val/accuracy": "accuracy",
    "val/f2": "F2",
}


@dataclass(frozen=True)
class Curve:
    """One logged quantity: `y` by `x` (steps or epochs), both float [N], x ascending."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.x)

    def where(self, mask: NDArray[np.bool_]) -> Curve:
        return Curve(self.x[mask], self.y[mask])

    def finite(self) -> Curve:
        return self.where(abs(self.y) < float("inf"))


@dataclass(frozen=True)
class Best:
    """The validation with the best score."""

    epoch: float
    step: float
    text: str


def plot_curves(run: Run, folder: Path | str) -> list[Path]:
    """Plot a run's history into `folder`, which is created if missing.

    From `metrics.csv` and `gradients.parquet`: `loss.png`, `metrics.png`, `learning_rate.png`,
    `gradient_norm.png` and `gradient_layers.png`. Plots without data are
    skipped. Returns the written paths. Raises RunFileError if a file of the run is damaged.
    """
    folder = Path(folder)
    metrics, gradients = read_history(run)
    best = _best(metrics)
    figures = {
        "loss.png": _plot_loss(metrics, gradients, best),
        "metrics.png": _plot_metrics(metrics, best),
        "learning_rate.png": _plot_learning_rate(metrics, gradients),
        "gradient_norm.png": _plot_gradient_norm(metrics, gradients),
        "gradient_layers.png": plot_layers(gradients),
    }
    subtitle = f"dataset: {_dataset(run)}  ·  {run.path.resolve().name}"
    written = []
    for name, figure in figures.items():
        if figure is not None:
            save(figure, folder / name, subtitle)
            written.append(folder / name)
    return written


def read_history(run: Run) -> tuple[pandas.DataFrame, pandas.DataFrame]:
    """Return metrics and gradients of a run; an empty table if the file is missing."""
    import pandas

    try:
        metrics = run.metrics
    except MissingRunFileError:
        metrics = pandas.DataFrame()
    try:
        gradients = run.gradients
    except MissingRunFileError:
        gradients = pandas.DataFrame()
    return metrics, gradients


def _curve(
    table: pandas.DataFrame, column: str, by: str = "step", *, keep_nan: bool = False
) -> Curve:
    """Return a column by step or epoch, without NaN unless `keep_nan`; infinities stay."""
    import numpy as np
    import pandas

    if column not in table or by not in table:
        return Curve(np.empty(0), np.empty(0))
    values = pandas.DataFrame(
        {
            "x": pandas.to_numeric(table[by], errors="coerce"),
            "y": pandas.to_numeric(table[column], errors="coerce"),
        },
        dtype=float,
    )
    values = values.dropna(subset=["x"] if keep_nan else ["x", "y"])
    # A resumed run repeats the steps since its checkpoint; the later values count.
    values = values.drop_duplicates("x", keep="last").sort_values("x")
    return Curve(*values.to_numpy().T)


def _best(metrics: pandas.DataFrame) -> Best | None:
    for metric, name, sign in (("val/auroc", "AUROC", 1), ("val/loss", "loss", -1)):
        curve = _curve(metrics, metric, by="epoch").finite()
        if len(curve):
            at = (sign * curve.y).argmax()
            epoch, value = float(curve.x[at]), float(curve.y[at])
            steps = _curve(metrics.loc[metrics["epoch"] == epoch], metric).x
            step = float(steps[-1]) if len(steps) else 0.0
            return Best(epoch, step, f"best epoch {epoch:.0f}\n(val {name} {value:.3f})")
    return None


def _plot_loss(
    metrics: pandas.DataFrame, gradients: pandas.DataFrame, best: Best | None
) -> Figure | None:
    sources = [(gradients, "loss")]
    sources += [(metrics, f"train/loss{kind}") for kind in ("_step", "", "_epoch")]
    curves = [_curve(table, column).finite() for table, column in sources]
    train = next(filter(len, curves), curves[-1])
    val = _curve(metrics, "val/loss").finite()
    if not len(train) and not len(val):
        return None
    figure, axes = new_figure("Loss", "step", "loss")
    if len(train) >= 20:
        # A window of 1/50 of the run smooths short and long runs alike.
        window = max(5, len(train) // 50) | 1
        axes.plot(train.x, train.y, color=BLUE, alpha=0.25, lw=0.7, label="train, as logged")
        mean = _moving_mean(train.y, window)
        axes.plot(train.x, mean, color=BLUE, lw=1.8, label=f"train, mean of {window}")
    elif len(train):
        axes.plot(train.x, train.y, "o-", color=BLUE, lw=1.8, ms=4, mec="white", label="train")
    if len(val):
        axes.plot(val.x, val.y, "o-", color=ORANGE, lw=1.8, ms=5, mec="white", label="val")
    top = 1.05 * max(_usual_top(train), _usual_top(val))
    if top > 0:
        axes.set_ylim(min([0.0, *train.y, *val.y]), top)
        above = train.where(train.y > top)
        mark_edge(axes, above.x, BLUE, "^", "train", f"above {top:.2g}")
    if best:
        mark_best(axes, best.step, best.text)
    legend(axes)
    return figure


def _moving_mean(values: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """Return means over centered windows, truncated at both ends."""
    import numpy as np

    ones = np.ones(window)
    counts = np.convolve(np.ones_like(values), ones, mode="same")
    return np.convolve(values, ones, mode="same") / counts


def _usual_top(curve: Curve) -> float:
    """Return the top of the values without outliers that would flatten the curve."""
    if not len(curve):
        return 0.0
    ordered = sorted(curve.y)
    usual, top = ordered[int(0.99 * (len(ordered) - 1))], ordered[-1]
    return float(top if top < 2 * usual else 1.25 * usual)


def _plot_metrics(metrics: pandas.DataFrame, best: Best | None) -> Figure | None:
    others = [name for name in metrics if name.startswith("val/") and name not in METRIC_NAMES]
    columns = [*METRIC_NAMES, *(name for name in others if name != "val/loss")]
    curves = {name: _curve(metrics, name, by="epoch").finite() for name in columns}
    curves = {name: curve for name, curve in curves.items() if len(curve)}
    if not curves:
        return None
    figure, axes = new_figure("Validation metrics", "epoch", "score")
    last = max(curve.x[-1] for curve in curves.values())
    epoch = best.epoch if best else last
    for color, (name, curve) in zip(CYCLE, curves.items(), strict=False):
        label = METRIC_NAMES.get(name, name.removeprefix("val/").replace("_", " "))
        value = curve.y[curve.x == epoch]
        label = f"{value[0]:.3f}  {label}" if len(value) else label
        axes.plot(curve.x, curve.y, "o-", color=color, lw=1.8, ms=5, mec="white", label=label)
    if best:
        mark_best(axes, best.epoch)
    axes.xaxis.set_major_locator(whole_numbers())
    if all(len(curve) == 1 for curve in curves.values()):
        axes.set_xticks([last])  # around one point, the axis would show fractions of an epoch
    legend(axes, title=best.text if best else f"at epoch {last:.0f}")
    return figure


def _plot_learning_rate(metrics: pandas.DataFrame, gradients: pandas.DataFrame) -> Figure | None:
    names = [name for name in metrics if name == "lr" or name.startswith(("lr-", "lr/"))]
    groups = {name: _curve(metrics, name).finite() for name in names}
    groups = {name: curve for name, curve in groups.items() if len(curve)}
    every_step = _curve(gradients, "lr").finite()
    # The gradients table has every step, but only the first group's rate.
    if len(every_step) and len(groups) < 2:
        groups = {"lr": every_step}
    if not groups:
        return None
    figure, axes = new_figure("Learning rate", "step", "learning rate")
    for color, (name, curve) in zip(CYCLE, groups.items(), strict=False):
        marker = "o" if len(curve) < 20 else ""
        axes.plot(curve.x, curve.y, color=color, lw=1.8, marker=marker, ms=4, label=name)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(plain_number)
    if len(groups) > 1:
        legend(axes)
    return figure


def _plot_gradient_norm(metrics: pandas.DataFrame, gradients: pandas.DataFrame) -> Figure | None:
    import numpy as np

    norm = _curve(gradients, "norm", keep_nan=True)
    clipped = _curve(gradients, "norm_clipped", keep_nan=True)
    if not len(clipped):
        clipped = norm
    if not len(norm):
        norm = clipped = _curve(metrics, "grad/norm")
    drawn = norm.where(norm.y > 0).finite()
    if not len(drawn):
        return None
    figure, axes = new_figure("Gradient norm", "step", "global L2 norm")
    log_scale(axes, decades=math.log10(drawn.y.max() / drawn.y.min()))
    line: dict[str, Any] = {"lw": 0.8, "marker": "" if len(drawn) > 50 else "o", "ms": 3}
    cut = clipped.where(clipped.y < norm.y * (1 - 1e-4)).y
    if not len(cut):
        axes.plot(drawn.x, drawn.y, color=BLUE, **line)
    else:
        axes.plot(drawn.x, drawn.y, color=SKY, label="before clipping", **line)
        after = clipped.where(clipped.y > 0).finite()
        axes.plot(after.x, after.y, color=BLUE, label="after clipping", **line)
        # Clipping by norm limits all steps to one value; clipping by value does not.
        limit, share = float(cut.max()), len(cut) / len(norm)
        if cut.min() > 0.98 * limit:
            label = f"threshold {limit:.3g}\n({share:.1%} of steps clipped)"
            axes.axhline(limit, color=INK, lw=1, ls="--", label=label)
    broken = norm.where(~(abs(norm.y) < float("inf")))
    mark_edge(axes, broken.x, ORANGE, "v", "norm", "not finite")
    spikes = drawn.where(np.isin(drawn.x, _spikes(gradients)))
    if len(spikes):
        label = f"spike ({count_steps(len(spikes))})"
        axes.plot(spikes.x, spikes.y, "o", color=PINK, mfc="none", ms=7, mew=1.5, label=label)
    if len(cut) or len(broken) or len(spikes):
        legend(axes)
    return figure


def _spikes(gradients: pandas.DataFrame) -> list[int]:
    """Return the steps that the gradients table marks as spikes."""
    if not {"step", "rows"} <= set(gradients):
        return []
    return gradients.loc[gradients["rows"].notna(), "step"].tolist()


def _dataset(run: Run) -> str:
    try:
        return str(run.manifest["dataset"]["name"])
    except (RunFileError, KeyError, TypeError):
        return "unknown"
