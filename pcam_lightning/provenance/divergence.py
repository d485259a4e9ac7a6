"""The first step at which two runs diverge, and the difference of their metrics."""

from typing import Any

import numpy as np
import pandas as pd

from pcam_lightning.metrics.intervals import difference_intervals
from pcam_lightning.metrics.metrics import compute_metrics
from pcam_lightning.metrics.predictions import checked_predictions
from pcam_lightning.runs import Run
from pcam_lightning.runs.files import MissingRunFileError, RunFileError
from pcam_lightning.runs.threshold import NAME as THRESHOLD_FILE

SPLITS = ("val", "test")


def first_divergence(one: Run, other: Run) -> dict[str, Any] | None:
    """Return the first optimizer step at which each recorded value differs.

    Returns a dict of "steps" (number of steps in both runs), "more" (number of steps in only one),
    "rows_known" (True if both runs recorded the rows of their batches), and the following, each
    None if nothing differs, else {"step", "epoch", "name", "values"}:

        batch    the rows of the batch or their order
        loss     the loss of the batch, before the step
        tensor   the first gradient that differs, in the order of the network's parameters

    Returns None if a run recorded no gradients.

    Raises:
        RunFileError: a table is damaged.
    """
    try:
        first, second = (_steps(run) for run in (one, other))
    except MissingRunFileError:
        return None
    steps = first.index.intersection(second.index)
    longer = max(len(first), len(second)) - len(steps)
    a, b = first.loc[steps], second.loc[steps]
    tensors = [name for name in a if name.startswith("norm/") and name in b]
    divergence: dict[str, Any] = {"steps": len(steps), "more": longer}
    divergence["rows_known"] = "batch" in a and "batch" in b
    for kind, names in (("batch", ["batch"]), ("loss", ["loss"]), ("tensor", tensors)):
        divergence[kind] = _first_difference(
            a, b, [name for name in names if name in a and name in b]
        )
    return divergence


def metric_differences(one: Run, other: Run) -> dict[str, Any]:
    """Return the second run's metrics minus the first's, by split, with 95 % intervals.

    Metrics that need a decision use each run's own threshold; "thresholds" holds both, as returned
    by `decision_threshold`. A split is left out if a run has no predictions for it, or if the two
    runs predicted different patches.
    """
    found = {}
    for split in SPLITS:
        try:
            a, b = (_predictions(run, split) for run in (one, other))
        except MissingRunFileError:
            continue
        if not a[["row", "label"]].equals(b[["row", "label"]]):
            continue
        chosen = [decision_threshold(run, split) for run in (one, other)]
        thresholds = chosen[0]["value"], chosen[1]["value"]
        slide = a["slide"].to_numpy() if "slide" in a else None
        label, scores = a["label"].to_numpy(), (a["probability"], b["probability"])
        intervals = difference_intervals(label, scores, thresholds, slide)
        values = [compute_metrics(label, p, t) for p, t in zip(scores, thresholds, strict=True)]
        found[split] = {
            "identical": a.equals(b),
            "slides": None if slide is None else len(np.unique(slide)),
            "thresholds": chosen,
            "metrics": {
                name: {"difference": values[1][name] - values[0][name], "low": low, "high": high}
                for name, (low, high) in intervals.items()
            },
        }
    return found


def decision_threshold(run: Run, split: str) -> dict[str, Any]:
    """Return the "value" of the threshold for a run's predictions of a split, and its "source".

    The source is `threshold.json`, if `evaluate` wrote it for these weights and logits, otherwise
    `summary.json`.
    """
    summary, stored = run.summary, run.threshold
    if stored is not None and stored.tta == "none":
        digest = summary.get("weights_digest")
        if None in (stored.weights_digest, digest) or stored.weights_digest == digest:
            return {"value": stored.value, "source": THRESHOLD_FILE}
    threshold = (summary.get(split) or {}).get("threshold")
    if threshold is None:
        raise RunFileError(f"{run.path}/summary.json: no {split}.threshold, expected a number")
    return {"value": threshold, "source": "summary.json"}


def _steps(run: Run) -> pd.DataFrame:
    """Return the gradients of a run by step; a step repeated after a resume counts once."""
    table = run.gradients
    kinds = {name: table[name].dtype.kind for name in table if name not in ("rows", "losses")}
    if "step" not in table or not set(kinds.values()) <= set("iuf"):
        other = next((name for name, kind in kinds.items() if kind not in "iuf"), "step")
        raise RunFileError(f"{run.path}/gradients.parquet: column {other}: expected numbers")
    return table.drop_duplicates("step", keep="last").set_index("step")


def _predictions(run: Run, split: str) -> pd.DataFrame:
    return checked_predictions(run.predictions(split), f"{run.path}/predictions/{split}.parquet")


def _first_difference(a: pd.DataFrame, b: pd.DataFrame, names: list[str]) -> dict[str, Any] | None:
    if not names:
        return None
    one, other = a[names].to_numpy(), b[names].to_numpy()
    differs = (one != other) & ~((one != one) & (other != other))  # NaN equals NaN
    if not differs.any():
        return None
    row = int(np.argmax(differs.any(axis=1)))
    column = int(np.argmax(differs[row]))
    return {
        "step": int(a.index[row]),
        "epoch": int(a["epoch"].iloc[row]) if "epoch" in a else None,
        "name": names[column].removeprefix("norm/"),
        "values": [one[row, column].item(), other[row, column].item()],
    }
