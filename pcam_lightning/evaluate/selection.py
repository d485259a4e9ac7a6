"""Which patches a person should look at first."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pcam_lightning.evaluate.slices import Slice
from pcam_lightning.metrics.metrics import is_tumour


@dataclass(frozen=True)
class Selection:
    """Patches that are shown together."""

    name: str
    """Fit for a file's name."""
    title: str
    rows: NDArray[np.int64]
    """Their positions in the predictions table, what matters most first; may be empty."""


def select_examples(
    table: pd.DataFrame, threshold: float, worst: Slice | None, count: int
) -> list[Selection]:
    """The most confident misses and false alarms, the least certain, the worst slice.

    Args:
        table: as from `read_predictions`.
        threshold: from which probability on a patch is called tumour.
        worst: the slice to look into, as from `worst_slice`.
        count: patches of each kind, >= 1; fewer where there are fewer.
    """
    label, probability = table["label"].to_numpy(), table["probability"].to_numpy()
    # Of equal ones the first row, so that the same table gives the same gallery.
    rising = np.argsort(probability, kind="stable")
    falling = np.argsort(-probability, kind="stable")
    called = is_tumour(probability, threshold)
    nearest = np.argsort(np.abs(probability - threshold), kind="stable")
    missed = rising[(label[rising] == 1) & ~called[rising]]
    alarms = falling[(label[falling] == 0) & called[falling]]
    selections = [
        Selection("misses", f"most confident of {len(missed):,} missed tumours", missed[:count]),
        Selection(
            "false_alarms", f"most confident of {len(alarms):,} false alarms", alarms[:count]
        ),
        Selection("least_certain", f"nearest to the threshold {threshold:.4g}", nearest[:count]),
    ]
    if worst is not None and len(worst.rows):
        rows = worst.rows
        given = np.where(label[rows] == 1, probability[rows], 1 - probability[rows])
        rows = rows[np.argsort(given, kind="stable")]
        title = f"furthest from the truth in {worst.property} {worst.name}"
        selections.append(Selection("worst_slice", title, rows[:count]))
    return selections


def worst_slice(slices: Sequence[Slice], scored: pd.DataFrame) -> Slice | None:
    """The slice with the smallest p-value of a table of `score_slices`; None if none has one."""
    tested = scored.iloc[1:].dropna(subset=["p"])
    if tested.empty:
        return None
    # Where correction has made p-values equal, the one with the lowest AUROC.
    first = tested.sort_values(["p", "auroc"], kind="stable").iloc[0]
    return next(
        each for each in slices if (each.property, each.name) == (first["property"], first["slice"])
    )


def captions(table: pd.DataFrame, rows: NDArray[np.int64]) -> list[str]:
    """What stands under each patch: row, label, probability, and the slide where it is known."""
    texts = []
    for record in table.iloc[rows].to_dict("records"):
        told = "tumour" if record["label"] else "normal"
        text = f"row {record['row']}: {told}\np(tumour) {shown(record['probability'])}"
        texts.append(f"{text}\n{record['slide']}" if "slide" in record else text)
    return texts


def shown(probability: float) -> str:
    """Three digits, and no rounding to a certainty that the model does not have."""
    if 0 < probability < 0.001:
        return "< 0.001"
    return "> 0.999" if 0.999 < probability < 1 else f"{probability:.3f}"


def center_share(maps: NDArray[np.floating]) -> NDArray[np.float64]:
    """The share of each map [N, 96, 96] >= 0 in the center 32 x 32, NaN where a map is 0."""
    total = maps.sum((1, 2), dtype=np.float64)
    center = maps[:, 32:64, 32:64].sum((1, 2), dtype=np.float64)
    return np.divide(center, total, out=np.full(len(maps), np.nan), where=total > 0)
