"""Predictions on disk: `predictions.parquet` and `predictions.csv`, written a batch at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pcam_lightning.metrics.abstention import undecided
from pcam_lightning.metrics.calibration import calibrated
from pcam_lightning.metrics.predictions import sigmoid
from pcam_lightning.metrics.summary import summarize
from pcam_lightning.predict.inputs import Patches
from pcam_lightning.runs.tables import csv_bytes

TYPES = {
    "file": pa.string(),
    "row": pa.int64(),
    "x": pa.int64(),
    "y": pa.int64(),
    "label": pa.int64(),
    "logit": pa.float32(),
    "probability": pa.float64(),
    "calibrated": pa.float64(),
    "decision": pa.string(),
}
"""Columns in their order; `row` (H5), `x` and `y` (tiles), `label` and `calibrated` where known."""


DECISIONS = ("tumour", "normal", "undecided")


class Draft:
    """A table of patches and logits on disk, to which decisions are added at the end.

    Decisions need all logits where a share of the patches is left undecided. Logits and labels
    alone are kept in memory: 5 bytes a patch.

    Rows are collected in lists of Python and written `GROUP` at a time. Arrays of each batch would
    lie between the activations of two batches and split the heap, whose memory would grow.
    """

    GROUP = 1 << 15

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rows: dict[str, list[Any]] = {}
        self._logits: list[NDArray[np.float32]] = []
        self._labels: list[NDArray[np.int8]] = []
        self._writer: pq.ParquetWriter | None = None

    @property
    def logit(self) -> NDArray[np.float32]:
        return np.concatenate(self._logits) if self._logits else np.empty(0, np.float32)

    @property
    def label(self) -> NDArray[np.int8] | None:
        """None where the input has no labels."""
        return np.concatenate(self._labels) if self._labels else None

    def add(self, patches: Patches, logit: NDArray[np.float32]) -> None:
        for name, values in {**patches.columns, "logit": logit.tolist()}.items():
            self._rows.setdefault(name, []).extend(values)
        if len(self._rows["logit"]) >= self.GROUP:
            self._write()

    def _write(self) -> None:
        columns, self._rows = self._rows, {}
        if not columns:
            return
        # A file name that is not UTF-8 reaches Python as lone surrogates.
        columns["file"] = [
            name.encode(errors="backslashreplace").decode() for name in columns["file"]
        ]
        schema = pa.schema([(name, kind) for name, kind in TYPES.items() if name in columns])
        if self._writer is None:
            self._writer = pq.ParquetWriter(self.path, schema)
        self._writer.write_table(pa.table({n: columns[n] for n in schema.names}, schema))
        self._logits.append(np.asarray(columns["logit"], np.float32))
        if "label" in columns:
            self._labels.append(np.asarray(columns["label"], np.int8))

    def close(self) -> None:
        """Write the remaining rows; the logits and labels are complete afterwards."""
        self._write()
        if self._writer is not None:
            self._writer.close()


@contextmanager
def draft_table(folder: Path) -> Iterator[Draft]:
    """Give a draft that is removed at the end of the block."""
    draft = Draft(folder / ".predictions.partial")
    try:
        yield draft
    finally:
        draft.close()
        draft.path.unlink(missing_ok=True)


def decide(logit: NDArray[np.float32], threshold: float, abstain: float) -> NDArray[np.str_]:
    """Return "tumour", "normal" or "undecided" for each of N patches.

    Args:
        logit: [N].
        threshold: tumour where sigmoid(logit) >= threshold.
        abstain: share of undecided patches, as in `undecided`.
    """
    decision = np.where(sigmoid(logit) >= threshold, "tumour", "normal").astype("<U9")
    decision[undecided(logit, threshold, abstain)] = "undecided"
    return decision


def score_labels(
    label: NDArray[np.int8],
    logit: NDArray[np.float32],
    decision: NDArray[np.str_],
    threshold: float,
) -> dict[str, Any]:
    """Return `metrics` of all patches, as from `summarize`, and `accuracy_of_decided`."""
    table = pd.DataFrame({"label": label.astype(np.int64), "probability": sigmoid(logit)})
    decided = decision != "undecided"
    correct = (decision == "tumour") == (label == 1)
    return {
        "metrics": summarize(table, threshold, float(label.mean())),
        "accuracy_of_decided": float(np.mean(correct[decided])) if np.any(decided) else None,
    }


def write_tables(
    folder: Path,
    draft: Draft,
    decision: NDArray[np.str_],
    temperature: float | None,
    prior_offset: float,
) -> None:
    """Write `predictions.parquet` and `predictions.csv` from a closed draft and its decisions.

    `calibrated` is from `metrics.calibration.calibrated`; the column is left out if there is
    nothing to calibrate with.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / name for name in ("predictions.parquet", "predictions.csv")]
    partial = [path.with_name(f".{path.name}.partial") for path in paths]
    try:
        start = 0
        with pq.ParquetFile(draft.path) as source, partial[1].open("wb") as csv:
            writer = None
            for batch in source.iter_batches():
                table = batch.to_pandas()
                table["probability"] = sigmoid(table["logit"].to_numpy())
                if temperature is not None or prior_offset:
                    logit = table["logit"].to_numpy()
                    table["calibrated"] = calibrated(logit, temperature, prior_offset)
                table["decision"] = decision[start : start + len(table)]
                arrow = _typed(table)
                writer = writer or pq.ParquetWriter(partial[0], arrow.schema)
                writer.write_table(arrow)
                text = csv_bytes(table)
                csv.write(text if start == 0 else text.partition(b"\n")[2])
                start += len(table)
            if writer is not None:
                writer.close()
        for path, written in zip(paths, partial, strict=True):
            written.replace(path)
    finally:
        for path in partial:
            path.unlink(missing_ok=True)


def _typed(table: pd.DataFrame) -> pa.Table:
    schema = pa.schema([(name, kind) for name, kind in TYPES.items() if name in table])
    return pa.Table.from_pandas(table[schema.names], schema, preserve_index=False)
