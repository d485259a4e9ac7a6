"""Heat map of gradient norms by layer and step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pcam_lightning.plots.style import (
    FAINT,
    INK,
    log_ticks,
    new_figure,
    plain_number,
    whole_numbers,
)

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

PREFIX = "norm/"
COLUMNS = 400
"""Largest number of columns; more steps are merged by their median."""
LABELS = 120
"""Largest number of layer labels."""
ROW = 0.13  # inches per layer


def plot_layers(gradients: pandas.DataFrame) -> Figure | None:
    """Plot norms by step and layer, the first layer on top; None if the table has no layers."""
    import numpy as np
    from matplotlib.colors import LogNorm

    layers = layer_norms(gradients)
    if layers.empty:
        return None
    width = -(-len(layers) // COLUMNS)
    drawable = layers.where((layers > 0) & (layers < np.inf))
    values = drawable.groupby(np.arange(len(layers)) // width).median().to_numpy().T
    if np.isnan(values).all():
        return None
    shown = min(len(values), LABELS)
    title = "Gradient norm by layer" + (f", median of {width} steps" if width > 1 else "")
    height = max(4.5, 1.5 + ROW * shown)
    figure, axes = new_figure(title, "step", "", height)
    axes.set_facecolor(FAINT)
    # Quantiles, so that a few outliers do not use up the color scale.
    low, high = np.nanquantile(values, (0.005, 0.995))
    edges = np.append(layers.index[::width], layers.index[-1] + 1) - 0.5
    mesh = axes.pcolormesh(
        edges,
        np.arange(len(values) + 1) - 0.5,
        np.ma.masked_invalid(values),
        norm=LogNorm(low, high if high > low else 1.001 * low),
        rasterized=True,
    )
    axes.grid(False)
    axes.margins(0)
    axes.invert_yaxis()
    every = -(-len(values) // LABELS)
    axes.set_yticks(range(0, len(values), every), layers.columns[::every], parse_math=False)
    axes.tick_params(axis="y", labelsize=7 if len(values) > 24 else 9, length=0)
    axes.xaxis.set_major_locator(whole_numbers())
    form: Any = {"extend": "both", "extendfrac": 0.02, "aspect": 7 * height, "pad": 0.02}
    ticks = log_ticks(np.log10(high / low))
    bar = figure.colorbar(mesh, ticks=ticks, format=plain_number, **form)
    bar.minorticks_off()
    bar.set_label("L2 norm before clipping (gray: zero or not finite)", color=INK)
    return figure


def layer_norms(gradients: pandas.DataFrame) -> pandas.DataFrame:
    """Return the joint norm of each module's own parameters, float64, by step and module."""
    import numpy as np
    import pandas

    names = [name for name in gradients if name.startswith(PREFIX)]
    if not names or "step" not in gradients:
        return pandas.DataFrame()
    table = gradients.drop_duplicates("step", keep="last").set_index("step").sort_index()
    owners = [name.removeprefix(PREFIX).rpartition(".")[0] or "(network)" for name in names]
    norms = table[names].to_numpy(float)
    together = {
        owner: np.linalg.norm(norms[:, [each == owner for each in owners]], axis=1)
        for owner in dict.fromkeys(owners)
    }
    return pandas.DataFrame(together, index=table.index)
