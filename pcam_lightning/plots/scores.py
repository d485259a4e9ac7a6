"""Curves, confusion matrix, threshold, calibration and slices of one split, as PNG files."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import ArrayLike

from pcam_lightning.metrics.abstention import accuracy_by_coverage
from pcam_lightning.metrics.calibration import reliability
from pcam_lightning.metrics.metrics import Ranking, is_tumour
from pcam_lightning.metrics.thresholds import f_beta
from pcam_lightning.plots.style import BLUE, GRAY, GREEN, INK, ORANGE, save, style_axes

CLASS_NAMES = ("normal", "tumour")


def plot_roc(
    path: str | os.PathLike[str],
    label: ArrayLike,
    probability: ArrayLike,
    title: str = "",
    threshold: float | None = None,
) -> None:
    """Plot sensitivity against false positive rate, with the area in the legend.

    Args:
        path: PNG to write, atomically.
        label: [N] of 0 or 1.
        probability: [N] of tumour, in [0, 1].
        title: dataset and split; follows the plot's own name.
        threshold: operating point to mark; None for none.

    With one class only, the picture reports that the curve is undefined.

    Raises:
        ValueError: as in `compute_metrics`.
    """
    ranking = Ranking(label, probability, 0.5 if threshold is None else threshold)
    scores = ranking.metrics()
    true_positives, false_positives = ranking.counts()
    figure, axes = _unit_square(
        "ROC curve", title, "false positive rate (1 - specificity)", "sensitivity"
    )
    if np.isnan(scores["auroc"]):
        _undefined(axes, "undefined: only one class among the labels")
    else:
        axes.plot(
            false_positives / false_positives[-1],
            true_positives / true_positives[-1],
            color=BLUE,
            linewidth=2,
            label=f"model, area {scores['auroc']:.3f}",
        )
        axes.plot([0, 1], [0, 1], "--", color=GRAY, linewidth=1.5, label="any constant, area 0.500")
        if threshold is not None:
            _mark(axes, 1 - scores["specificity"], scores["sensitivity"], threshold)
        axes.legend(loc="lower right")
    save(figure, path)


def plot_precision_recall(
    path: str | os.PathLike[str],
    label: ArrayLike,
    probability: ArrayLike,
    title: str = "",
    threshold: float | None = None,
) -> None:
    """Plot precision against recall, with the average precision in the legend.

    The area under the steps is the average precision. Arguments, the undefined case and errors are
    as in `plot_roc`.
    """
    ranking = Ranking(label, probability, 0.5 if threshold is None else threshold)
    scores = ranking.metrics()
    true_positives, false_positives = (counts[1:] for counts in ranking.counts())
    prevalence = true_positives[-1] / (true_positives[-1] + false_positives[-1])
    figure, axes = _unit_square(
        "Precision-recall curve", title, "recall (sensitivity)", "precision"
    )
    if np.isnan(scores["average_precision"]):
        _undefined(axes, "undefined: no tumour among the labels")
    else:
        recall = true_positives / true_positives[-1]
        precision = true_positives / (true_positives + false_positives)
        axes.plot(
            np.insert(recall, 0, 0.0),
            np.insert(precision, 0, precision[0]),
            drawstyle="steps-pre",
            color=BLUE,
            linewidth=2,
            label=f"model, average precision {scores['average_precision']:.3f}",
        )
        axes.plot(
            [0, 1],
            [prevalence, prevalence],
            "--",
            color=GRAY,
            linewidth=1.5,
            label=f"any constant, average precision {prevalence:.3f}",
        )
        if threshold is not None:
            _mark(axes, scores["sensitivity"], scores["precision"], threshold)
        axes.legend(loc="lower left")
    save(figure, path)


def plot_confusion(
    path: str | os.PathLike[str],
    label: ArrayLike,
    probability: ArrayLike,
    threshold: float = 0.5,
    title: str = "",
) -> None:
    """Plot the confusion matrix: counts, and percentages of each true class.

    `is_tumour` decides the predicted class. Arguments and errors are as in `plot_roc`.
    """
    Ranking(label, probability, threshold)  # the same checks as everywhere
    actual = np.asarray(label).astype(np.int64)
    predicted = is_tumour(np.asarray(probability, dtype=np.float64), threshold).astype(np.int64)
    counts = np.bincount(2 * actual + predicted, minlength=4).reshape(2, 2)
    totals = counts.sum(axis=1)
    shares = counts / np.maximum(totals, 1)[:, None]

    figure, axes = _square("Confusion matrix", title)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for i in range(2):
        for j in range(2):
            percent = f"{shares[i, j]:.1%}" if totals[i] else "no such patch"
            ink = "white" if shares[i, j] > 0.55 else "black"
            axes.text(j, i - 0.06, f"{counts[i, j]:,}", ha="center", color=ink, fontsize=20)
            axes.text(j, i + 0.14, percent, ha="center", color=ink, fontsize=12)
    axes.set_xticks([0, 1], CLASS_NAMES)
    axes.set_yticks(
        [0, 1], [f"{name}\n{total:,}" for name, total in zip(CLASS_NAMES, totals, strict=True)]
    )
    x = f"predicted (tumour where probability ≥ {threshold:.4g})"
    style_axes(axes, x, "true (percentages of each row)")
    axes.grid(False)
    axes.tick_params(length=0, labelsize=11)
    axes.spines[:].set_visible(False)
    axes.axhline(0.5, color="white", linewidth=3)
    axes.axvline(0.5, color="white", linewidth=3)
    save(figure, path)


def plot_thresholds(
    path: str | os.PathLike[str],
    label: ArrayLike,
    probability: ArrayLike,
    threshold: float,
    title: str = "",
    beta: float = 2.0,
) -> None:
    """Plot precision, recall and F-beta over the threshold, and mark the chosen one.

    Arguments, the undefined case and errors are as in `plot_roc`.
    """
    ranking = Ranking(label, probability)
    true_positives, false_positives = ranking.counts()
    figure, axes = _unit_square("Threshold", title, "threshold (tumour from here on)", "")
    if not true_positives[-1]:
        _undefined(axes, "undefined: no tumour among the labels")
    else:
        # At a probability as threshold, it and all higher ones are predicted tumour.
        at = np.append(ranking.probabilities, 0.0)
        tp, fp = (np.append(counts[1:], counts[-1]) for counts in (true_positives, false_positives))
        curves = {
            "precision": (tp / (tp + fp), GREEN),
            "recall (sensitivity)": (tp / tp[-1], BLUE),
            f"F{beta:g}": (f_beta(tp, fp, beta), ORANGE),
        }
        for name, (values, color) in curves.items():
            axes.plot(at, values, color=color, linewidth=2, drawstyle="steps-post", label=name)
        axes.axvline(
            threshold, color="black", linestyle="--", linewidth=1.2, label=f"chosen {threshold:.4g}"
        )
        axes.legend(loc="lower center")
    save(figure, path)


def plot_coverage(
    path: str | os.PathLike[str],
    label: ArrayLike,
    logit: ArrayLike,
    threshold: float,
    title: str = "",
) -> None:
    """Plot the accuracy over the share of patches that are decided, the most certain ones first.

    Args:
        path: PNG to write, atomically.
        label: [N] of 0 or 1.
        logit: [N].
        threshold: tumour where sigmoid(logit) >= threshold.
        title: dataset and split.
    """
    decided, accuracy = accuracy_by_coverage(label, logit, threshold)
    figure, axes = _unit_square(
        "Risk and coverage", title, "share of patches decided", "accuracy on them"
    )
    axes.plot(decided, accuracy, color=BLUE, linewidth=2)
    low = float(accuracy.min())
    margin = 0.08 * max(1 - low, 0.01)
    axes.set_ylim(low - margin, 1 + margin)
    axes.set_aspect("auto")
    for share in (0.5, 0.8, 0.9, 1.0):
        value = accuracy[int(np.ceil(share * len(accuracy))) - 1]
        axes.plot(share, value, "o", color=BLUE)
        axes.annotate(f"{value:.3f}", (share, value), (7, 5), textcoords="offset points",
                      fontsize=9)  # fmt: skip
    save(figure, path)


def plot_reliability(
    path: str | os.PathLike[str],
    label: ArrayLike,
    probabilities: Mapping[str, ArrayLike],
    title: str = "",
) -> None:
    """Plot the share of tumours against the predicted probability, with patch counts, in bins.

    Args:
        path: PNG to write, atomically.
        label: [N] of 0 or 1.
        probabilities: legend entry to probabilities [N] of tumour, such as before and after a
            temperature.
        title: dataset and split.
    """
    figure, axes = _unit_square(
        "Reliability", title, "probability of tumour, mean of a bin", "share of tumours in the bin"
    )
    axes.plot([0, 1], [0, 1], "--", color=GRAY, linewidth=1.5, label="perfectly calibrated")
    for (name, probability), color in zip(
        probabilities.items(), (ORANGE, BLUE, GREEN), strict=False
    ):
        bins = reliability(label, probability)
        share, mean = bins["tumours"].to_numpy(), bins["probability"].to_numpy()
        around = np.abs(np.stack([share - bins["low"], bins["high"] - share]))
        axes.errorbar(
            mean, share, around, fmt="o-", color=color, capsize=2, linewidth=1.5, label=name
        )
        rows = bins["rows"].to_numpy()
        height = 0.1 * rows / rows.max()
        axes.bar(mean, height, width=0.012, color=color, alpha=0.5, zorder=0)
    axes.legend(loc="upper left")
    axes.text(0.99, 0.14, "bars: patches in a bin", ha="right", fontsize=9, color=GRAY)
    save(figure, path)


def plot_slices(
    path: str | os.PathLike[str], table: pd.DataFrame, title: str = "", limit: int = 40
) -> None:
    """Plot AUROC, sensitivity and specificity of each slice with intervals.

    Args:
        path: PNG to write, atomically.
        table: result of `score_slices`, the whole split first; slices beyond the first `limit` are
            only counted in the title.
        title: dataset and split.
    """
    whole, slices = table.iloc[0], table.iloc[1 : limit + 1]
    more = len(table) - 1 - len(slices)
    names = ("auroc", "sensitivity", "specificity")
    figure = Figure(figsize=(10.5, 1.6 + 0.24 * max(1, len(slices))), dpi=120, layout="constrained")
    left = figure.subplots(1, 3, sharey=True)
    y = np.arange(len(slices))
    for axes, name in zip(left, names, strict=True):
        values = slices[name].to_numpy(np.float64)
        worse = np.array([name in words.split() for words in slices["worse"]], bool)
        axes.axvline(whole[name], color=GRAY, linewidth=1.2)
        for which, color in ((~worse, BLUE), (worse, ORANGE)):
            ends = [slices[f"{name}_{end}"].to_numpy(np.float64)[which] for end in ("low", "high")]
            axes.hlines(y[which], *ends, color=color, linewidth=2, alpha=0.6)
            axes.plot(values[which], y[which], "o", color=color, markersize=5)
        for place in np.flatnonzero(np.isnan(values)):
            axes.text(0.5, place, "undefined", color=GRAY, fontsize=7, va="center", ha="center",
                      transform=axes.get_yaxis_transform())  # fmt: skip
        style_axes(axes, name, "", grid="x")
    labels = [
        f"{_shortened(f'{each.property}: {each.slice}')} ({each.rows:,})"
        for each in slices.itertuples()
    ]
    left[0].set_yticks(y, labels, fontsize=8, parse_math=False)
    left[0].set_ylim(len(slices) - 0.4, -0.6)
    heading = f"Slices: {title}" if title else "Slices"
    heading += f" (and {more} more)" if more else ""
    key = "line: whole split; orange: flagged as worse"
    style: dict[str, Any] = {"fontweight": "bold", "color": INK, "parse_math": False}
    figure.suptitle(f"{heading}\n{key}", fontsize=11, x=0.01, ha="left", **style)
    save(figure, path)


def _shortened(text: str, limit: int = 44) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _square(name: str, title: str) -> tuple[Figure, Axes]:
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12)
    figure = Figure(figsize=(5.4, 5.4), dpi=150, layout=layout)
    axes = figure.add_subplot()
    text = f"{name}: {title}" if title else name
    style: dict[str, Any] = {"fontweight": "bold", "color": INK, "parse_math": False}
    axes.set_title(text, fontsize=12, loc="left", wrap=True, **style)
    return figure, axes


def _unit_square(name: str, title: str, x: str, y: str) -> tuple[Figure, Axes]:
    figure, axes = _square(name, title)
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    style_axes(axes, x, y)
    return figure, axes


def _mark(axes: Axes, x: float, y: float, threshold: float) -> None:
    undefined = " (undefined)" if np.isnan(x) or np.isnan(y) else ""
    axes.plot(
        x,
        y,
        "o",
        color=ORANGE,
        markersize=8,
        markeredgecolor="white",
        clip_on=False,
        zorder=3,
        label=f"model at threshold {threshold:.4g}{undefined}",
    )


def _undefined(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, ha="center", fontsize=11, color=ORANGE)
