"""Names of the PatchCamelyon files: those of the official release, and those of Kaggle's copy."""

import logging
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from pcam_lightning.data.packed import unpacked
from pcam_lightning.data.storage import MAX_ROWS

SPLITS = ("train", "valid", "test")
_OFFICIAL = {
    "x": "camelyonpatch_level_2_split_{split}_x.h5",
    "y": "camelyonpatch_level_2_split_{split}_y.h5",
    "meta": "camelyonpatch_level_2_split_{split}_meta.csv",
}
LAYOUTS = (
    _OFFICIAL,
    # kaggle.com/datasets/andrewmvd/metastatic-tissue-classification-patchcamelyon
    {
        "x": "pcam/{kaggle}_split.h5",
        "y": "Labels/Labels/" + _OFFICIAL["y"],
        "meta": "Metadata/Metadata/" + _OFFICIAL["meta"],
    },
    # the same files in one folder
    _OFFICIAL | {"x": "{kaggle}_split.h5"},
)
"""Names of patches (x), labels (y) and metadata below the data folder, in order of precedence."""
_KAGGLE_SPLITS = {"train": "training", "valid": "validation"}
MAX_BYTES = {"x": 64 * 10**9, "y": 8 * MAX_ROWS}
"""Size of the largest file to unpack; the official training patches in float64 take 58 GB."""

log = logging.getLogger(__name__)


def file_names(split: str, part: str) -> list[str]:
    """Return the known names of a file below the data folder; the official name comes first."""
    kaggle = _KAGGLE_SPLITS.get(split, split)
    return [layout[part].format(split=split, kaggle=kaggle) for layout in LAYOUTS]


def find_file(root: Path, names: Sequence[str], part: str, cache_dir: Path | None) -> Path:
    """Return the first existing file of `names`; the path of the first name if there is none.

    An H5 file that exists as `NAME.h5.gz` only is unpacked first (see `data.packed`). One log line
    reports a choice among files of different names.

    Args:
        root: the folder that the names are relative to.
        names: possible names of the file.
        part: "x", "y" or "meta".
        cache_dir: folder for the unpacked file if the folder of the packed file is read-only.

    Raises:
        InputError: the file cannot be unpacked.
    """
    paths = [root / name for name in dict.fromkeys(names)]
    found = [path for path in paths if os.path.isfile(path)]
    packed = [gz for path in paths if path not in found and os.path.isfile(gz := _packed(path))]
    if part == "meta":
        packed = []
    if len(found) + len(packed) > 1:
        _report_choice(*found, *packed)
    if found:
        return found[0]
    if packed:
        return unpacked(packed[0], MAX_BYTES[part], cache_dir)
    # A folder, a pipe or a link to nothing is reported by its reader.
    return next((path for path in paths if os.path.lexists(path)), paths[0])


def missing_files(root: Path) -> list[Path]:
    """Return the official paths of the H5 files that `root` holds under no known name."""
    return [
        root / file_names(split, part)[0]
        for split in SPLITS
        for part in ("x", "y")
        if not any(is_there(root / name) for name in file_names(split, part))
    ]


def describe_missing(root: Path) -> str | None:
    """Return which H5 files `root` lacks, and the folder that has them; None if it has all six."""
    if not missing_files(root):
        return None
    if os.path.isdir(root) and not os.access(root, os.R_OK | os.X_OK):
        return "permission denied to read this folder"
    for folder in (root / "pcam", root.resolve().parent):
        if not missing_files(folder):
            return f"not all PatchCamelyon files are here, but data.root={folder} has them"
    # The names of the layout that the folder has images of, which its other files should have, too.
    numbers = range(len(LAYOUTS))
    images = [file_names(split, "x") for split in SPLITS]
    used = next((i for i in numbers if any(is_there(root / names[i]) for names in images)), 0)
    names = [file_names(split, part) for split in SPLITS for part in ("x", "y")]
    absent = [each[used] for each in names if not any(is_there(root / name) for name in each)]
    which = f"the first is {absent[0]}" if len(absent) == 6 else ", ".join(absent)
    return f"{len(absent)} of the 6 PatchCamelyon files are missing: {which}"


def is_there(path: Path) -> bool:
    """Return whether an H5 file exists, as it is or packed."""
    return os.path.isfile(path) or os.path.isfile(_packed(path))


def _packed(path: Path) -> Path:
    return path.with_name(f"{path.name}.gz")


@cache
def _report_choice(chosen: Path, *others: Path) -> None:
    log.warning("%s is read, not %s", chosen, ", ".join(map(str, others)))
