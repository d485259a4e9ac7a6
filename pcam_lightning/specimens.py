"""The patches behind predictions tables, where their data is at hand."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pcam_lightning.data.cache import patch_file
from pcam_lightning.data.files import SplitFiles, missing_files, read_labels, read_slides
from pcam_lightning.errors import InputError
from pcam_lightning.evaluation.appearance import PROPERTIES, Patches, measure

SPLIT_FILES = {"val": "valid", "test": "test"}
"""Which split's files a table's name stands for."""


class Specimens:
    """The files of the tables' splits in one folder.

    Args:
        root: the folder of the H5 files; None where it is not known.
        data: the config's section, for `cache` and `cache_dir`.
        tables: "val" and "test" to predictions tables, as far as there are any.

    Attributes:
        missing: why there are no patches, in one line; None where there are.
    """

    def __init__(
        self, root: Path | None, data: Mapping[str, Any], tables: Mapping[str, pd.DataFrame]
    ) -> None:
        self.root, self._data, self._tables = root, data, tables
        self.missing = self._fault()

    def _fault(self) -> str | None:
        if self.root is None:
            return "no data folder is known; name it with data.root=FOLDER"
        if missing_files(self.root):
            return f"the data is no longer in {self.root}; name it with data.root=FOLDER"
        for split, table in self._tables.items():
            row, labels = table["row"].to_numpy(), read_labels(self._files(split))
            if row.max() >= len(labels) or (labels[row] != table["label"].to_numpy()).any():
                return f"{self.root}: other data than the {split} predictions are of"
        return None

    def prevalence(self) -> float | None:
        """Share of tumour among the training labels; None where they are not at hand."""
        if self.missing:
            return None
        assert self.root is not None
        return float(np.mean(read_labels(SplitFiles(self.root, "train"))))

    def patches(self, split: str) -> Patches:
        """All patches of a split, indexed by row or sliced; there must be no `missing`."""
        cache_dir = self._data["cache_dir"]
        files = self._files(split)
        return patch_file(files, cache_dir and Path(cache_dir), self._data["cache"]).map()

    def described(self, hospitals: Path | None) -> dict[str, pd.DataFrame]:
        """The tables with slides, hospitals and appearance, where these are known or can be.

        Raises:
            InputError: `hospitals` is no CSV with the columns slide and hospital, or slides are not
                known.
        """
        tables = {}
        for split, table in self._tables.items():
            if not self.missing:
                row = table["row"].to_numpy()
                slides = None if "slide" in table else read_slides(self._files(split))
                if slides is not None:
                    table = table.assign(slide=slides[row])
                if any(name not in table for name in PROPERTIES):
                    found = measure(self.patches(split))
                    table = table.assign(**{name: found[name][row] for name in PROPERTIES})
            tables[split] = table if hospitals is None else _with_hospitals(table, hospitals)
        return tables

    def _files(self, split: str) -> SplitFiles:
        assert self.root is not None
        return SplitFiles(self.root, SPLIT_FILES[split])


def _with_hospitals(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    if "slide" not in table:
        raise InputError(f"evaluate.hospitals={path}: no slides are known, expected meta files")
    try:
        known = pd.read_csv(path, usecols=["slide", "hospital"], dtype=str).dropna()
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"evaluate.hospitals={path}: {reason}; expected a CSV with the columns slide, hospital"
        ) from None
    twice = known["slide"][known["slide"].duplicated()]
    if len(twice):
        raise InputError(f"evaluate.hospitals={path}: slide {twice.iloc[0]} is there twice")
    hospital = table["slide"].map(known.set_index("slide")["hospital"]).fillna("unknown")
    return table.assign(hospital=hospital)
