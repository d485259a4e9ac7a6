"""Slides and other metadata of patches, from the official CSV files."""

import csv
import logging
import os
from itertools import islice
from pathlib import Path

import numpy as np

from pcam_lightning.data.files import SplitFiles, check_images
from pcam_lightning.errors import one_line

COLUMNS = ("wsi", "center_tumor_patch")
"""Columns that are read: the slide, which must be there, and whether the center has tumour."""

log = logging.getLogger(__name__)


def read_slides(files: SplitFiles) -> np.ndarray | None:
    """Return the slide id of every row (object [N] of str), None if `read_meta` returns None."""
    columns = read_meta(files)
    return None if columns is None else columns["wsi"]


def read_meta(files: SplitFiles) -> dict[str, np.ndarray] | None:
    """Return those of `COLUMNS` that a split's meta file has, each object [N] of str.

    Return None without a meta file, and after a warning if it cannot be used.
    """
    if not os.path.lexists(files.meta):
        return None
    rows = check_images(files)
    try:
        return _parse_meta(files.meta, rows)
    except (ValueError, OSError, csv.Error) as error:
        log.warning(
            "%s: %s; expected a CSV with the column wsi and %d rows; continuing without slides",
            files.meta,
            getattr(error, "strerror", None) or one_line(error),
            rows,
        )
        return None


def _parse_meta(path: Path, rows: int) -> dict[str, np.ndarray]:
    """Return columns of a meta file of `rows` rows; raise ValueError, OSError or csv.Error."""
    if path.exists() and not path.is_file():
        raise ValueError("not a regular file")
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = filter(None, csv.reader(file, strict=True))  # without blank ones
        header = next(lines, [])
        if "wsi" not in header:
            raise ValueError("no column wsi")
        places = {name: header.index(name) for name in COLUMNS if name in header}
        columns: dict[str, list[str]] = {name: [] for name in places}
        for row, line in enumerate(islice(lines, rows + 1)):
            if len(line) != len(header):
                raise ValueError(f"row {row} has {len(line)} fields, the header {len(header)}")
            for name, place in places.items():
                columns[name].append(line[place])
    slides = columns["wsi"]
    if len(slides) != rows:
        raise ValueError("more rows" if len(slides) > rows else f"{len(slides)} rows")
    if empty := [row for row, slide in enumerate(slides) if not slide.strip()]:
        raise ValueError(f"no slide for row {empty[0]}")
    return {name: np.array(values, dtype=object) for name, values in columns.items()}
