"""The patches behind predictions tables, where their data is at hand."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pcam_lightning.data.cache import patch_file
from pcam_lightning.data.files import (
    SPLIT_FILES,
    SplitFiles,
    missing_files,
    read_labels,
    read_slides,
)
from pcam_lightning.data.patch_features import FEATURES, Patches, compute
from pcam_lightning.data.scale import BYTES, check_scales
from pcam_lightning.errors import InputError

log = logging.getLogger(__name__)

SAMPLE = 32  # patches that are looked at to know their data again


class PatchSource:
    """The files of the tables' splits in one folder.

    Args:
        root: the folder of the H5 files; None where it is not known.
        data: the config's section, for `scale`, `cache` and `cache_dir`.
        tables: "val" and "test" to predictions tables, as far as there are any.

    Attributes:
        missing: why there are no patches, in one line; None where there are.
    """

    def __init__(
        self, root: str | None, data: Mapping[str, Any], tables: Mapping[str, pd.DataFrame]
    ) -> None:
        self.root = None if root is None else Path(root)
        self._data, self._tables, self._scale = data, tables, BYTES
        self.missing = self._fault()

    def _fault(self) -> str | None:
        if self.root is None:
            return "no data folder is known; name it with data.root=FOLDER"
        if missing_files(self.root):
            return f"the data is no longer in {self.root}; name it with data.root=FOLDER"
        try:
            self._scale = check_scales(self.root, self._data.get("scale", "auto"))
        except InputError as error:
            return str(error)
        for split, table in self._tables.items():
            row, labels = table["row"].to_numpy(), read_labels(self._files(split))
            other = row.max() >= len(labels) or (labels[row] != table["label"].to_numpy()).any()
            if other or not self._look_alike(split, table.head(SAMPLE)):
                return f"{self.root}: other data than the {split} predictions are of"
        return None

    def _look_alike(self, split: str, table: pd.DataFrame) -> bool:
        """Whether patches are as bright as their table says, if it does."""
        if "brightness" not in table:
            return True
        found = compute(self.patches(split)[table["row"].to_numpy()])["brightness"]
        return bool(np.allclose(found, table["brightness"].to_numpy(np.float64), atol=1e-5))

    def prevalence(self, recorded: float | None) -> tuple[float, str]:
        """Share of tumour among the training labels, as far as it can be known, and from where.

        Args:
            recorded: what a run noted of it, for where the labels are not at hand.
        """
        if not self.missing:
            assert self.root is not None
            labels = read_labels(SplitFiles(self.root, "train"))
            return float(np.mean(labels)), "training labels"
        if recorded is not None:
            return recorded, "training labels, as the run noted them"
        split = "val" if "val" in self._tables else "test"
        log.warning("training labels are not at hand: constants know the prevalence of %s", split)
        return float(np.mean(self._tables[split]["label"].to_numpy())), f"labels of {split}"

    def patches(self, split: str) -> Patches:
        """All patches of a split, indexed by row or sliced; there must be no `missing`."""
        cache_dir = self._data["cache_dir"]
        files = self._files(split)
        cache_dir = cache_dir and Path(cache_dir)
        return patch_file(files, cache_dir, self._data["cache"], self._scale).map()

    def with_features(
        self, hospitals: str | None, with_slides: bool = True
    ) -> dict[str, pd.DataFrame]:
        """The tables with slides, hospitals and appearance, where these are known or can be.

        Args:
            hospitals: path of a CSV with the hospital of each slide.
            with_slides: look for slides in the meta files where a table has none.

        Raises:
            InputError: `hospitals` is no CSV with the columns slide and hospital, or slides are not
                known.
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
        assert self.root is not None
        return SplitFiles(self.root, SPLIT_FILES[split])


def _with_hospitals(table: pd.DataFrame, path: str) -> pd.DataFrame:
    if "slide" not in table:
        raise InputError(f"evaluate.hospitals={path}: no slides are known, expected meta files")
    try:
        known = pd.read_csv(path, usecols=["slide", "hospital"], dtype=str).dropna()
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"evaluate.hospitals={path}: {reason}; expected a CSV with the columns slide, hospital"
        ) from None
    twice = known["slide"].duplicated()
    if twice.any():
        slide = known.loc[twice, "slide"].min()
        raise InputError(f"evaluate.hospitals={path}: slide {slide} is there twice")
    hospital = dict(zip(known["slide"], known["hospital"], strict=True))
    return table.assign(hospital=[hospital.get(slide, "unknown") for slide in table["slide"]])
