"""Lightning's CSV logger, writing into a run folder and continuing what is there."""

import csv
import io
import os
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import csv_logs

from pcam_lightning.files import atomic_write


class CSVLogger(csv_logs.CSVLogger):
    """Writes `metrics.csv` straight into `folder`; one that is there is continued.

    Lightning's own (2.6) takes a folder with anything in it for the leavings of another run and
    deletes its metrics.csv, which would lose the history of a run that is resumed.
    """

    def __init__(self, folder: str, flush_logs_every_n_steps: int = 100) -> None:
        super().__init__(
            folder, name="", version="", flush_logs_every_n_steps=flush_logs_every_n_steps
        )

    @property
    @rank_zero_experiment
    def experiment(self) -> "_Writer":
        if self._experiment is None:
            self._experiment = _Writer(self.log_dir)
        return self._experiment  # type: ignore[return-value]

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Nothing: the run folder holds the config already."""


class _Writer(csv_logs.ExperimentWriter):
    _latest: tuple[dict[str, float], int | None] | None = None

    def log_metrics(self, metrics_dict: dict[str, float], step: int | None = None) -> None:
        """Write the same values at the same step once, though a checkpoint has them logged early.

        (See `engine.callbacks.preemption_checkpoint`.)
        """
        if (metrics_dict, step) != self._latest:
            self._latest = (dict(metrics_dict), step)
            super().log_metrics(metrics_dict, step)

    def save(self) -> None:
        """Append what was logged; on a full disk no half row is left."""
        path = Path(self.metrics_file_path)
        size = path.stat().st_size if path.is_file() else 0
        try:
            super().save()
        except OSError as error:
            if path.is_file():
                os.truncate(path, size)
            error.filename = str(path)
            raise

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        """Called when a metric is new. Lightning's own empties the file before it fills it."""
        path = Path(self.metrics_file_path)
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, fieldnames)
        writer.writeheader()
        writer.writerows(rows)
        atomic_write(path, text.getvalue().encode())

    def _check_log_dir_exists(self) -> None:
        """Called when made. Takes up the columns of an earlier start instead of deleting it."""
        path = Path(self.metrics_file_path)
        if path.is_file():
            with path.open(newline="") as file:
                self.metrics_keys = next(csv.reader(file), [])
