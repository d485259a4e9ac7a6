from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure

from pcam_lightning.plots.layers import layer_norms, plot_layers


def table(layers: int, steps: int) -> pd.DataFrame:
    """Layer l of step s has a weight of norm 3 (l + 1) (s + 1) and a bias of norm 4 (...)."""
    size = np.outer(np.arange(1, steps + 1), np.arange(1, layers + 1)).astype(np.float32)
    columns: dict[str, Any] = {"step": np.arange(steps)}
    for layer in range(layers):
        columns[f"norm/block.{layer}.weight"] = 3 * size[:, layer]
        columns[f"norm/block.{layer}.bias"] = 4 * size[:, layer]
    return pd.DataFrame(columns)


def mesh(figure: Figure | None) -> QuadMesh:
    assert figure is not None
    (drawn,) = (c for c in figure.axes[0].collections if isinstance(c, QuadMesh))
    return drawn


def test_a_layer_is_all_that_a_module_owns() -> None:
    gradients = table(2, 3).assign(**{"norm/scale": 7.0, "norm/block.1.extra": np.inf})
    norms = layer_norms(gradients)
    assert list(norms.columns) == ["block.0", "block.1", "(network)"]
    np.testing.assert_allclose(norms["block.0"], [5, 10, 15])
    assert set(norms["block.1"]) == {np.inf} and set(norms["(network)"]) == {7}


@pytest.mark.parametrize(("layers", "named"), [(1, 1), (5, 5), (120, 120), (300, 100)])
def test_the_first_layer_is_on_top_and_names_have_room(layers: int, named: int) -> None:
    figure = plot_layers(table(layers, 3))
    values: Any = mesh(figure).get_array()
    np.testing.assert_allclose(values, 5 * np.outer(np.arange(1, layers + 1), [1, 2, 3]))
    assert figure is not None
    axes = figure.axes[0]
    assert axes.yaxis_inverted()
    labels = axes.get_yticklabels()
    assert len(labels) == named and labels[0].get_text() == "block.0"
    figure.canvas.draw()
    heights = [label.get_window_extent().height for label in labels[:1]]
    gaps = np.diff([label.get_window_extent().y0 for label in labels])
    assert all(abs(gaps) >= max(heights) * 0.8)


def test_many_steps_are_put_together_by_their_median() -> None:
    gradients = table(2, 1001)
    gradients.loc[4, "norm/block.0.weight"] = 1e9
    gradients.loc[[6, 7, 8], "norm/block.0.weight"] = np.nan
    figure = plot_layers(gradients)
    values: Any = mesh(figure).get_array()
    assert values.shape == (2, 334)  # 3 at a time
    np.testing.assert_allclose(values[0, :2], [10, 30])
    assert values.mask[0, 2] and not values.mask[1].any()
    edges = np.asarray(mesh(figure).get_coordinates())[0, :, 0]
    assert (edges[0], edges[1], edges[-1]) == (-0.5, 2.5, 1000.5)


def test_without_layers_there_is_no_picture() -> None:
    assert plot_layers(pd.DataFrame()) is None
    assert plot_layers(pd.DataFrame({"step": [0], "norm": [1.0]})) is None
    assert plot_layers(pd.DataFrame({"step": [0], "norm/a.b": [np.nan]})) is None
    assert plot_layers(pd.DataFrame({"step": [0], "norm/a.b": [1.0]})) is not None
