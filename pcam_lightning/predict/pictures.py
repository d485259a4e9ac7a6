"""Pictures of predictions: a contact sheet, heat maps of tiled images, drift from training."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pcam_lightning.data.patch_features import FEATURES
from pcam_lightning.metrics.predictions import sigmoid
from pcam_lightning.plots.galleries import plot_gallery
from pcam_lightning.plots.style import BLUE, FAINT, GRAY, INK, ORANGE, save
from pcam_lightning.predict.inputs import SIDE, Patches


class ContactSheet:
    """The patches with the lowest keys so far, with their captions."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._keys = np.empty(0)
        self._patches = np.empty((0, SIDE, SIDE, 3), np.uint8)
        self._captions: list[str] = []

    def add(self, patches: Patches, logit: NDArray[np.float32], key: NDArray[np.floating]) -> None:
        """Consider N more patches with their logits; `key` [N] is sorted ascending."""
        order = np.argsort(key, kind="stable")[: self.count]
        captions = [_caption(patches.columns, logit, place) for place in order]
        keys = np.concatenate([self._keys, key[order]])
        images = np.concatenate([self._patches, patches.image[order]])
        captions = [*self._captions, *captions]
        kept = np.argsort(keys, kind="stable")[: self.count]
        self._keys, self._patches = keys[kept], images[kept]
        self._captions = [captions[place] for place in kept]

    def draw(self, path: Path, title: str) -> None:
        if len(self._patches):
            plot_gallery(path, self._patches, self._captions, title)


def _caption(columns: Mapping[str, list[Any]], logit: NDArray[np.float32], place: int) -> str:
    name = Path(columns["file"][place]).name
    name = name if len(name) <= 26 else f"…{name[-25:]}"
    if "row" in columns:
        name = f"row {columns['row'][place]}"
    if "x" in columns:
        name += f" ({columns['x'][place]}, {columns['y'][place]})"
    if "label" in columns:
        name += ": tumour" if columns["label"][place] else ": normal"
    return f"{name}\np(tumour) {sigmoid(logit[place : place + 1])[0]:.3f}"


def plot_heat_map(
    path: Path, thumbnail: NDArray[np.uint8], tiles: pd.DataFrame, title: str
) -> None:
    """Draw a tiled image beside its grid of probabilities.

    Args:
        path: PNG to write.
        thumbnail: small copy of the tiled part of the image, uint8 [h, w, 3].
        tiles: its rows of the predictions table, with `x`, `y` and `probability`.
        title: above both.
    """
    x, y = (tiles[name].to_numpy() // SIDE for name in ("x", "y"))
    columns, rows = int(x.max()) + 1, int(y.max()) + 1
    grid = np.full((rows, columns), np.nan)
    grid[y, x] = tiles["probability"]
    ratio = thumbnail.shape[0] / thumbnail.shape[1]
    figure = Figure(
        figsize=(11, 1.2 + 5 * min(max(ratio, 0.3), 2.5)), dpi=150, layout="constrained"
    )
    left, right = figure.subplots(1, 2)
    left.imshow(thumbnail, extent=(0, columns, rows, 0))
    right.imshow(thumbnail, extent=(0, columns, rows, 0))
    drawn = right.imshow(
        grid, extent=(0, columns, rows, 0), vmin=0, vmax=1, cmap="inferno", alpha=0.65,
        interpolation="nearest",
    )  # fmt: skip
    for axes in (left, right):
        axes.set_axis_off()
    figure.colorbar(drawn, ax=right, shrink=0.8, label="probability of tumour")
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, parse_math=False)
    save(figure, path)


def plot_drift(
    path: Path,
    known: Mapping[str, Any],
    features: Mapping[str, NDArray[np.floating]],
    found: Mapping[str, Mapping[str, Any]],
) -> None:
    """Draw the distribution of each feature in training and in the input.

    Args:
        path: PNG to write.
        known: as from `drift.reference`.
        features: name to one number for each patch, [N].
        found: as from `drift.compare_features`.
    """
    figure = Figure(figsize=(3.0 * len(found), 3.4), dpi=150, layout="constrained")
    panels = figure.subplots(1, len(found), squeeze=False)[0]
    for axes, (name, result) in zip(panels, found.items(), strict=True):
        quantiles = np.asarray(known["quantiles"][name])
        values = np.sort(features[name])
        axes.plot(quantiles, np.linspace(0, 1, len(quantiles)), color=BLUE, lw=2, label="training")
        axes.plot(values, np.linspace(0, 1, len(values)), color=ORANGE, lw=2, label="input")
        verdict = "drifted" if result["drifted"] else "as in training"
        axes.set_title(
            f"{name}: {verdict}\ndistance {result['distance']:.2f}, limit {result['limit']:.2f}",
            fontsize=10, loc="left", color=ORANGE if result["drifted"] else INK,
        )  # fmt: skip
        axes.set_xlabel(FEATURES[name], fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color=FAINT)
        axes.tick_params(labelsize=8, color=GRAY)
    panels[0].set_ylabel("share of patches at or below")
    panels[0].legend(frameon=False, fontsize=9)
    save(figure, path)
