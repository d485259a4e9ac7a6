import sys
from functools import partial

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from sklearn.metrics import (
    auc,
    average_precision_score,
    confusion_matrix,
    fbeta_score,
    precision_score,
    recall_score,
    roc_auc_score,
)

from pcam_lightning.metrics.calibration import reliability
from pcam_lightning.metrics.metrics import METRICS
from pcam_lightning.plots.scores import (
    plot_confusion,
    plot_precision_recall,
    plot_reliability,
    plot_roc,
    plot_slices,
    plot_thresholds,
)


@pytest.fixture
def figure(monkeypatch):
    """The figure last saved, to ask what is on it."""
    saved = []
    save = Figure.savefig

    def savefig(self, *args, **kwargs):
        saved.append(self)
        save(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", savefig)
    return lambda: saved[-1]


@pytest.fixture
def table():
    generator = np.random.default_rng(0)
    label = generator.integers(2, size=500)
    return label, (1 / (1 + np.exp(-generator.normal(2 * label - 1)))).round(2)


def legend(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def is_png(path):
    return path.read_bytes().startswith(b"\x89PNG") and list(path.parent.iterdir()) == [path]


def test_roc(tmp_path, figure, table):
    plot_roc(tmp_path / "roc.png", *table, title="demo, test", threshold=0.3)
    assert is_png(tmp_path / "roc.png")
    axes = figure().axes[0]
    assert axes.get_title(loc="left") == "ROC curve: demo, test"
    area = roc_auc_score(*table)
    assert legend(axes)[0] == f"model, area {area:.3f}"
    points = np.asarray(axes.lines[0].get_xydata())
    assert auc(points[:, 0], points[:, 1]) == pytest.approx(area)
    label, probability = table
    fpr, sensitivity = (np.mean(probability[label == c] >= 0.3) for c in (0, 1))
    assert np.asarray(axes.lines[2].get_xydata())[0] == pytest.approx([fpr, sensitivity])


def test_precision_recall(tmp_path, figure, table):
    plot_precision_recall(tmp_path / "pr.png", *table, threshold=0.3)
    assert is_png(tmp_path / "pr.png")
    axes = figure().axes[0]
    average = average_precision_score(*table)
    assert legend(axes)[0] == f"model, average precision {average:.3f}"
    recall, precision = axes.lines[0].get_data()
    assert axes.lines[0].get_drawstyle() == "steps-pre"
    assert np.diff(recall) @ precision[1:] == pytest.approx(average)
    assert axes.lines[1].get_ydata() == pytest.approx([table[0].mean()] * 2)


def test_confusion(tmp_path, figure, table):
    label, probability = table
    plot_confusion(tmp_path / "confusion.png", label, probability, threshold=0.3, title="demo")
    assert is_png(tmp_path / "confusion.png")
    axes = figure().axes[0]
    expected = confusion_matrix(label, probability >= 0.3)
    shares = confusion_matrix(label, probability >= 0.3, normalize="true")
    written = {tuple(np.round(text.get_position()).astype(int)): [] for text in axes.texts}
    for text in axes.texts:
        written[tuple(np.round(text.get_position()).astype(int))].append(text.get_text())
    for (column, row), texts in written.items():  # x is predicted, y is true
        assert texts == [f"{expected[row, column]:,}", f"{shares[row, column]:.1%}"]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["normal", "tumour"]
    assert "0.3" in axes.get_xlabel()


def test_thresholds(tmp_path, figure, table):
    label, probability = table
    plot_thresholds(tmp_path / "threshold.png", label, probability, 0.35, "val, demo", beta=2.0)
    assert is_png(tmp_path / "threshold.png")
    axes = figure().axes[0]
    assert legend(axes) == ["precision", "recall (sensitivity)", "F2", "chosen 0.35"]
    assert axes.lines[3].get_xdata() == [0.35, 0.35]
    scores = (precision_score, recall_score, lambda y, p: fbeta_score(y, p, beta=2))
    for line, score in zip(axes.lines, scores, strict=False):
        assert line.get_drawstyle() == "steps-post"
        at, values = line.get_data()
        assert (np.diff(at) < 0).all() and at[-1] == 0
        # From one probability down to the next, the patches from the former on are tumour.
        for place in (0, len(at) // 2, len(at) - 2):
            between = (at[place] + at[place + 1]) / 2
            assert values[place] == pytest.approx(score(label, probability >= between))


def test_reliability(tmp_path, figure, table):
    label, probability = table
    both = {"before": probability, "after": probability**2}
    plot_reliability(tmp_path / "reliability.png", label, both, "test, demo")
    assert is_png(tmp_path / "reliability.png")
    axes = figure().axes[0]
    assert {"before", "after"} < set(legend(axes))
    drawn = np.asarray(axes.containers[0].lines[0].get_xydata())
    expected = reliability(label, probability)
    np.testing.assert_allclose(drawn, expected[["probability", "tumours"]])


def test_slices(tmp_path, figure):
    columns = {f"{name}{end}": [0.9, 0.8, 0.7] for name in METRICS for end in ("", "_low", "_high")}
    scored = pd.DataFrame(columns).assign(
        property=["", "hue", "slide"],
        slice=["everything", "below 1", "$x$"],
        rows=[3000, 2000, 1000],
        worse=["", "auroc", ""],
    )
    scored.loc[2, ["sensitivity", "sensitivity_low", "sensitivity_high"]] = np.nan
    plot_slices(tmp_path / "slices.png", scored, "test, demo")
    assert is_png(tmp_path / "slices.png")
    axes = figure().axes
    names = [text.get_text() for text in axes[0].get_yticklabels()]
    assert names == ["hue: below 1 (2,000)", "slide: $x$ (1,000)"]
    assert [text.get_text() for text in axes[1].texts] == ["undefined"]
    assert not axes[0].texts
    plot_slices(tmp_path / "slices.png", scored, limit=1)
    assert "and 1 more" in figure().get_suptitle()
    plot_slices(tmp_path / "slices.png", scored.iloc[:1])  # of a table that has no slices


def test_one_class_only_says_so(tmp_path, figure):
    label, probability = np.zeros(5, int), np.linspace(0, 1, 5)
    for plot in (plot_roc, plot_precision_recall, partial(plot_thresholds, threshold=0.5)):
        plot(tmp_path / "plot.png", label, probability)
        assert "undefined" in figure().axes[0].texts[0].get_text()
    plot_confusion(tmp_path / "plot.png", label, probability)
    assert "no such patch" in {text.get_text() for text in figure().axes[0].texts}


def test_nothing_predicted_tumour_says_so(tmp_path, figure, table):
    plot_precision_recall(tmp_path / "pr.png", *table, threshold=2)
    assert legend(figure().axes[0])[-1] == "model at threshold 2 (undefined)"


def test_pyplot_is_never_imported(tmp_path, table, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # makes its import fail
    plot_roc(tmp_path / "roc.png", *table)


def test_bad_input_is_refused_and_nothing_is_written(tmp_path):
    for plot in (plot_roc, plot_precision_recall, plot_confusion):
        with pytest.raises(ValueError, match="label"):
            plot(tmp_path / "plot.png", [0, 3], [0.5, 0.5])
    assert not list(tmp_path.iterdir())
