"""Predictions table: label and model output of each patch of a split.

row          int64             index of the patch in the split's H5 file, unique, >= 0
slide        string            whole-slide image of the patch; optional column
label        int64             1 = tumour in the center 32 x 32 pixels, 0 = normal
logit        float32, float64  the model's output, finite
probability  float64           sigmoid(logit), in [0, 1]
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pcam_lightning.errors import InputError
from pcam_lightning.files import atomic_write
from pcam_lightning.runs.tables import parquet_bytes, read_parquet

if TYPE_CHECKING:
    import pandas

LAST_ROW = 2**48
ROUNDING = 1e-3
"""Accepted difference between a probability and the sigmoid of its logit."""
COLUMNS = ("row", "label", "logit", "probability")


def sigmoid(logit: ArrayLike) -> NDArray[np.float64]:
    """Return 1 / (1 + exp(-logit)) in float64, without overflow and accurate in both tails."""
    x = np.asarray(logit, dtype=np.float64)
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, e) / (1.0 + e)


def write_predictions(
    path: str | os.PathLike[str],
    row: ArrayLike,
    label: ArrayLike,
    logit: ArrayLike,
    slide: ArrayLike | None = None,
    others: Mapping[str, ArrayLike] | None = None,
) -> None:
    """Write a predictions table as parquet, sorted by row, atomically.

    Args:
        path: file to write; missing folders are created, an older file is replaced.
        row: [N] distinct integers; remove the rows that a distributed sampler repeats.
        label: [N] of 0 or 1.
        logit: [N] finite floats; stored as float64 if they come so, otherwise as float32.
        slide: [N] strings, or None where slides are not known.
        others: further columns [N], written unchanged.

    Raises:
        InputError: (a ValueError) the table would be invalid; nothing is written.
    """
    import pandas  # not before the first training step

    logit = np.asarray(logit)
    columns = {"row": np.asarray(row), "label": np.asarray(label), "logit": logit}
    if slide is not None:
        columns["slide"] = np.asarray(slide, dtype=object)
    shapes = {name: values.shape for name, values in columns.items()}
    if len(set(shapes.values())) > 1 or logit.ndim != 1:
        raise InputError(f"{path}: columns must be flat and of one length, but are {shapes}")
    if logit.dtype != np.float64:
        columns["logit"] = logit.astype(np.float32)
    # The stored logit is used, so that both columns of the file agree exactly.
    columns["probability"] = sigmoid(columns["logit"])
    table = checked_predictions(pandas.DataFrame(columns | dict(others or {})), path)
    save_table(path, table)


def save_table(path: str | os.PathLike[str], table: pandas.DataFrame) -> None:
    """Write a table as parquet, unchanged and atomically."""
    atomic_write(path, parquet_bytes(table))


def read_predictions(path: str | os.PathLike[str]) -> pandas.DataFrame:
    """Read and check a predictions table.

    Returns:
        The columns of the module's docstring, sorted by row; other columns follow unchanged.

    Raises:
        InputError: (a ValueError) the file is missing, no parquet file, or an invalid table; one
            line names file and fault.
    """
    return checked_predictions(read_parquet(Path(path)), path)


def checked_predictions(table: pandas.DataFrame, path: str | os.PathLike[str]) -> pandas.DataFrame:
    """Check a table and return it like `read_predictions`; errors name `path`."""
    fault = _fault(table)
    if fault:
        raise InputError(f"{path}: {fault}")
    table = table.assign(row=table["row"].astype(np.int64), label=table["label"].astype(np.int64))
    named = ["row", *(["slide"] if "slide" in table else []), "label", "logit", "probability"]
    others = [name for name in table.columns if name not in named]
    return table.loc[:, named + others].sort_values("row", ignore_index=True)


def _fault(table: pandas.DataFrame) -> str | None:
    """Return the table's first fault in one line, or None."""
    missing = [name for name in COLUMNS if name not in table]
    if missing:
        return f"missing columns {missing}, found {list(map(str, table.columns))}"
    if table.empty:
        return "the table has no rows"
    for name in table.columns.intersection([*COLUMNS, "slide"]):
        absent = table[name].isna().to_numpy()
        if absent.any():
            return (
                f"column {name} has {absent.sum()} missing or NaN values, {_first(table, absent)}"
            )
    for name in COLUMNS:
        kinds = "iu" if name == "row" else "iufb"
        if table[name].to_numpy().dtype.kind not in kinds:
            return f"column {name} should hold numbers, its type is {table[name].dtype}"
    for name in table.columns.intersection(["slide", "hospital"]):
        if not all(isinstance(value, str) for value in table[name]):
            return f"column {name} should hold text"
    row, label, logit, probability = (table[name].to_numpy() for name in COLUMNS)
    for wrong, what in (
        (row < 0, "negative row numbers"),
        (row > LAST_ROW, "row numbers that no file has"),
        (table["row"].duplicated().to_numpy(), "duplicate rows"),
        ((label != 0) & (label != 1), "labels other than 0 and 1"),
        (~np.isfinite(logit), "infinite logits"),
        ((probability < 0) | (probability > 1), "probabilities outside [0, 1]"),
        (abs(probability - sigmoid(logit)) > ROUNDING, "probabilities that are not sigmoid(logit)"),
    ):
        if wrong.any():
            return f"{wrong.sum()} {what}, {_first(table, wrong)}"
    return None


def _first(table: pandas.DataFrame, wrong: NDArray[np.bool_]) -> str:
    position = int(np.flatnonzero(wrong)[0])
    return f"first at row {table['row'].iloc[position]} (position {position})"
