"""CSV logger that writes into a run folder and continues an existing file."""

import csv
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from pcam_lightning.files import atomic_write


class CSVLogger(Logger):
    """Logger that writes `metrics.csv` into `folder`; an existing file is continued.

    Lightning's own CSV logger (2.6) deletes the existing file, and with it the history of a
    resumed run.
    """

    def __init__(self, folder: str) -> None:
        super().__init__()
        self._path = Path(folder) / "metrics.csv"
        self._rows: list[dict[str, Any]] = []
        self._latest: tuple[Mapping[str, Any], int | None] | None = None

    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self._path.parent)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Keep a row for `save`; the same values at the same step are kept once.

        `PreemptionCheckpoint` has the metrics of a step logged before Lightning logs them.
        """
        if (metrics, step) == self._latest:
            return
        self._latest = (dict(metrics), step)
        row = {name: v.item() if isinstance(v, Tensor) else v for name, v in metrics.items()}
        self._rows.append(row | {"step": step})

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Do nothing: the run folder already holds the config."""

    @rank_zero_only
    def save(self) -> None:
        """Append the new rows to the file; a metric that is new to the file becomes a column.

        A full disk leaves no partial row.
        """
        if not self._rows:
            return
        header, size = [], 0
        if self._path.is_file():
            size = self._path.stat().st_size
            with self._path.open(newline="") as file:
                header = next(csv.reader(file), [])
        columns = sorted(set(header).union(*self._rows))
        if columns != header:
            self._rewrite(columns)
            return
        try:
            with self._path.open("a", newline="") as file:
                csv.DictWriter(file, columns).writerows(self._rows)
        except OSError as error:
            os.truncate(self._path, size)
            error.filename = str(self._path)
            raise
        self._rows.clear()

    def _rewrite(self, columns: list[str]) -> None:
        """Write the file again, with these columns and the new rows."""
        rows = []
        if self._path.is_file():
            with self._path.open(newline="") as file:
                rows = list(csv.DictReader(file))
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, columns)
        writer.writeheader()
        writer.writerows([*rows, *self._rows])
        atomic_write(self._path, text.getvalue())
        self._rows.clear()
