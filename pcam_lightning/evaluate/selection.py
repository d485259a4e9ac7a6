"""Selection of the patches to inspect first: errors, uncertain patches, the worst slice."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pcam_lightning.evaluate.slices import Slice
from pcam_lightning.metrics.metrics import is_tumour


@dataclass(frozen=True)
class Selection:
    """Patches to show together."""

    name: str
    """The name of the picture, without suffix."""
    title: str
    rows: NDArray[np.int64]
    """Positions in the predictions table, the most important first; may be empty."""


def select_examples(
    table: pd.DataFrame, threshold: float, worst: Slice | None, count: int
) -> list[Selection]:
    """Select the most confident errors, the least certain patches, and errors in the worst slice.

    Args:
        table: predictions, from `read_predictions`.
        threshold: probability from which a patch is classified as tumour.
        worst: the slice from `worst_slice`; None or an empty slice adds no selection.
        count: maximum number of patches in each selection, >= 1.
    """
    label, probability = table["label"].to_numpy(), table["probability"].to_numpy()
    # Stable sorts: the same table always gives the same selection.
    rising = np.argsort(probability, kind="stable")
    falling = np.argsort(-probability, kind="stable")
    predicted = is_tumour(probability, threshold)
    nearest = np.argsort(np.abs(probability - threshold), kind="stable")
    missed = rising[(label[rising] == 1) & ~predicted[rising]]
    alarms = falling[(label[falling] == 0) & predicted[falling]]
    selections = [
        Selection("misses", f"most confident of {len(missed):,} missed tumours", missed[:count]),
        Selection(
            "false_alarms", f"most confident of {len(alarms):,} false alarms", alarms[:count]
        ),
        Selection("least_certain", f"nearest to the threshold {threshold:.4g}", nearest[:count]),
    ]
    if worst is not None and len(worst.rows):
        rows = worst.rows
        of_true_class = np.where(label[rows] == 1, probability[rows], 1 - probability[rows])
        rows = rows[np.argsort(of_true_class, kind="stable")]
        title = f"largest errors in {worst.property} {worst.name}"
        selections.append(Selection("worst_slice", title, rows[:count]))
    return selections


def worst_slice(slices: Sequence[Slice], scored: pd.DataFrame) -> Slice | None:
    """Return the slice with the smallest p-value, None if no slice was tested.

    Args:
        slices: the slices that were scored.
        scored: the table from `score_slices`.
    """
    tested = scored.iloc[1:].dropna(subset=["p"])
    if tested.empty:
        return None
    # The correction can make p-values equal; then AUROC decides.
    first = tested.sort_values(["p", "auroc"], kind="stable").iloc[0]
    return next(
        each for each in slices if (each.property, each.name) == (first["property"], first["slice"])
    )


def captions(table: pd.DataFrame, rows: NDArray[np.int64]) -> list[str]:
    """Return a caption for each patch: row, label, probability, and the slide if known."""
    texts = []
    for record in table.iloc[rows].to_dict("records"):
        label = "tumour" if record["label"] else "normal"
        text = (
            f"row {record['row']}: {label}\np(tumour) {format_probability(record['probability'])}"
        )
        texts.append(f"{text}\n{record['slide']}" if "slide" in record else text)
    return texts


def format_probability(probability: float) -> str:
    """Return a probability with three decimals; only an exact 0 or 1 is shown as 0 or 1."""
    if 0 < probability < 0.001:
        return "< 0.001"
    return "> 0.999" if 0.999 < probability < 1 else f"{probability:.3f}"


def center_share(maps: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the share of each map [N, 96, 96] >= 0 in the center 32 x 32, NaN if a map is 0."""
    total = maps.sum((1, 2), dtype=np.float64)
    center = maps[:, 32:64, 32:64].sum((1, 2), dtype=np.float64)
    return np.divide(center, total, out=np.full(len(maps), np.nan), where=total > 0)
