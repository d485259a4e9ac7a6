"""Patches and patch metadata of the rows in predictions tables."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pcam_lightning.data.cache import patch_file
from pcam_lightning.data.files import SPLIT_FILES, SplitFiles, read_labels, split_files
from pcam_lightning.data.layout import describe_missing
from pcam_lightning.data.patch_features import FEATURES, Patches, compute
from pcam_lightning.data.scale import BYTES, check_scales
from pcam_lightning.data.slides import read_slides
from pcam_lightning.errors import InputError

log = logging.getLogger(__name__)

SAMPLE = 32  # patches compared to check that the data is the same


class PatchSource:
    """The H5 files that predictions tables were made from, if they are available.

    Args:
        root: the folder of the H5 files; None if unknown.
        data: the config's section `data`; its `keys`, `scale`, `cache` and `cache_dir` are
            used.
        tables: "val", "test" or both to predictions tables.

    Attributes:
        missing: the reason in one line if no patches are available, else None.
    """

    def __init__(
        self, root: str | None, data: Mapping[str, Any], tables: Mapping[str, pd.DataFrame]
    ) -> None:
        self.root = None if root is None else Path(os.path.expanduser(root))
        self._data, self._tables, self._scale = data, tables, BYTES
        self._splits: dict[str, SplitFiles] = {}
        self.missing = self._fault()

    def _fault(self) -> str | None:
        if self.root is None:
            return "the data folder is unknown; expected data.root=FOLDER"
        if fault := describe_missing(self.root):
            return f"{self.root}: {fault}; expected data.root=FOLDER"
        try:
            self._splits = split_files(
                self.root, self._data.get("keys"), self._data.get("cache_dir")
            )
            self._scale = check_scales(self._splits, self._data.get("scale", "auto"))
        except InputError as error:
            return str(error)
        for split, table in self._tables.items():
            row, labels = table["row"].to_numpy(), read_labels(self._files(split))
            other = row.max() >= len(labels) or (labels[row] != table["label"].to_numpy()).any()
            if other or not self._same_brightness(split, table.head(SAMPLE)):
                return f"{self.root}: not the data that the {split} predictions were made from"
        return None

    def _same_brightness(self, split: str, table: pd.DataFrame) -> bool:
        """Compare the patches' brightness with the table's; True if the table has none."""
        if "brightness" not in table:
            return True
        found = compute(self.patches(split)[table["row"].to_numpy()])["brightness"]
        return bool(np.allclose(found, table["brightness"].to_numpy(np.float64), atol=1e-5))

    def prevalence(self, recorded: float | None) -> tuple[float, str]:
        """Return the share of tumour among the training labels, and the source of this number.

        Args:
            recorded: the share recorded by a run, used if the labels are not available.

        Returns:
            The share of the training labels, else `recorded`, else the share of the validation
            or test labels with a warning.
        """
        if not self.missing:
            labels = read_labels(self._splits["train"])
            return float(np.mean(labels)), "training labels"
        if recorded is not None:
            return recorded, "training labels, recorded by the run"
        split = "val" if "val" in self._tables else "test"
        log.warning("no training labels: the constant predictors use the prevalence of %s", split)
        return float(np.mean(self._tables[split]["label"].to_numpy())), f"labels of {split}"

    def patches(self, split: str) -> Patches:
        """Return all patches of a split, indexed by row; `missing` must be None."""
        return patch_file(self._files(split), self._data["cache"], self._scale).map()

    def with_features(
        self, hospitals: str | None, with_slides: bool = True
    ) -> dict[str, pd.DataFrame]:
        """Return the tables with slides, hospitals and patch features, where available.

        Args:
            hospitals: path of a CSV with the hospital of each slide.
            with_slides: read the slides from the meta files if a table has none.

        Raises:
            InputError: `hospitals` is not a CSV with the columns slide and hospital, or the slides
                are unknown.
        """
        tables = {}
        for split, table in self._tables.items():
            if not self.missing:
                row = table["row"].to_numpy()
                if with_slides and "slide" not in table:
                    slides = read_slides(self._files(split))
                    table = table if slides is None else table.assign(slide=slides[row])
                if any(name not in table for name in FEATURES):
                    found = compute(self.patches(split))
                    table = table.assign(**{name: found[name][row] for name in FEATURES})
            tables[split] = table if hospitals is None else _with_hospitals(table, hospitals)
        return tables

    def _files(self, split: str) -> SplitFiles:
        return self._splits[SPLIT_FILES[split]]


def _with_hospitals(table: pd.DataFrame, path: str) -> pd.DataFrame:
    if "slide" not in table:
        raise InputError(
            f"evaluate.hospitals={path}: the slides are unknown; expected *_meta.csv beside the H5 "
            "files, or predictions with a column slide"
        )
    try:
        known = pd.read_csv(path, usecols=["slide", "hospital"], dtype=str).dropna()
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"evaluate.hospitals={path}: {reason}; expected a CSV with the columns slide, hospital"
        ) from None
    repeated = known["slide"].duplicated()
    if repeated.any():
        slide = known.loc[repeated, "slide"].min()
        raise InputError(f"evaluate.hospitals={path}: slide {slide} has two rows, expected one")
    hospital = dict(zip(known["slide"], known["hospital"], strict=True))
    return table.assign(hospital=[hospital.get(slide, "unknown") for slide in table["slide"]])
