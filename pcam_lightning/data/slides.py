"""Slides and other metadata of patches, from the official CSV files."""

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pcam_lightning.data.files import SplitFiles, check_images
from pcam_lightning.errors import one_line

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)


def read_slides(files: SplitFiles) -> np.ndarray | None:
    """Return the slide id of every row (object [N] of str), None if `read_meta` returns None."""
    table = read_meta(files)
    return None if table is None else table["wsi"].to_numpy(dtype=object)


def read_meta(files: SplitFiles) -> "pd.DataFrame | None":
    """Return the text columns `wsi` and, if present, `center_tumor_patch` of a split's meta file.

    Return None without a meta file, and after a warning if it cannot be used.
    """
    if not os.path.lexists(files.meta):
        return None
    rows = check_images(files)
    try:
        return _parse_meta(files.meta, rows)
    except (ValueError, OSError) as error:
        log.warning(
            "%s: %s; expected a CSV with the column wsi and %d rows; continuing without slides",
            files.meta,
            getattr(error, "strerror", None) or one_line(error),
            rows,
        )
        return None


def _parse_meta(path: Path, rows: int) -> "pd.DataFrame":
    """Return a meta file's table of `rows` rows; raise ValueError or OSError otherwise."""
    import pandas as pd

    if path.exists() and not path.is_file():
        raise ValueError("not a regular file")
    # Not usecols, which would accept lines of any length.
    table = pd.read_csv(path, dtype=str, nrows=rows + 1)
    if "wsi" not in table:
        raise ValueError("no column wsi")
    if len(table) != rows:
        raise ValueError("more rows" if len(table) > rows else f"{len(table)} rows")
    empty = table["wsi"].isna() | (table["wsi"].str.strip() == "")
    if empty.any():
        raise ValueError(f"no slide for row {int(empty.to_numpy().argmax())}")
    return table.filter(["wsi", "center_tumor_patch"])
