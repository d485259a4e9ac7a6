"""Findings in the scans of all splits: damaged, blank, unusual, duplicate and leaked patches."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import pandas as pd

from pcam_lightning.audit.scan import SplitScan
from pcam_lightning.data.findings import COLUMNS, KINDS
from pcam_lightning.data.statistics import BLACK, WHITE

Scans = Mapping[str, SplitScan]
Finding = tuple[str, int, str, str]
"""Split, row, kind, value."""

FENCE = 3.0
"""Distance of Tukey's (1977) outer fences from the quartiles, in interquartile ranges."""


def find_faults(scans: Scans, near_duplicates: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return all findings of all kinds, as a table with the columns split, row, kind, value.

    Kinds are described in `pcam_lightning.data.findings.KINDS`. Among equal patches of a split, all
    but the first are duplicates. If equal patches have different labels, all of them are
    contradictions instead, since none of the labels can be trusted. Equal patches in several splits
    are all cross-split duplicates. Near-duplicates are added from the table of `NearDuplicates`.
    """
    found: list[Finding] = []
    for split, scan in scans.items():
        found += _damage(split, scan)
    found += _copies(scans)
    if near_duplicates is not None:
        for split, row, kind, *other in near_duplicates.iloc[:, :5].itertuples(index=False):
            found.append((split, row, kind, _name(*other)))
    found += _slides(scans)
    kinds, splits = list(KINDS), list(scans)
    found.sort(key=lambda each: (kinds.index(each[2]), splits.index(each[0]), each[1]))
    return pd.DataFrame(found, columns=COLUMNS)  # type: ignore[arg-type]


def fences(mean: np.ndarray) -> tuple[float, float]:
    """Return Tukey's lower and upper outer fence of mean intensities (0..255)."""
    first, third = np.percentile(mean, (25, 75))
    return first - FENCE * (third - first), third + FENCE * (third - first)


def valid_labels(scan: SplitScan) -> np.ndarray:
    """Return whether each label is 0 or 1, bool [N]."""
    return np.isin(scan.labels, (0, 1))


def _damage(split: str, scan: SplitScan) -> Iterator[Finding]:
    changes = scan.changes
    counts = {
        "nan_pixels": changes.nan,
        "infinity": changes.infinite,
        "out_of_range": changes.below_0 + changes.above_255,
    }
    for kind, count in counts.items():
        yield from ((split, row, kind, str(count[row])) for row in _rows(count > 0))
    black, white = scan.mean <= BLACK, scan.mean >= WHITE
    low, high = fences(scan.mean)
    outlier = ((scan.mean < low) | (scan.mean > high)) & ~black & ~white
    for kind, mask in (("black", black), ("white", white), ("outlier", outlier)):
        yield from ((split, row, kind, f"{scan.mean[row]:.4f}") for row in _rows(mask))
    for row in _rows(~valid_labels(scan)):
        yield split, row, "invalid_label", f"{scan.labels[row]:g}"
    expected = _labels_in_meta(scan)
    if expected is not None:
        for row in _rows((expected != scan.labels) & valid_labels(scan)):
            yield split, row, "label_mismatch", f"{scan.labels[row]:g}, meta {expected[row]:g}"


def _copies(scans: Scans) -> Iterator[Finding]:
    split = np.repeat(list(scans), [len(scan) for scan in scans.values()])
    row = np.concatenate([np.arange(len(scan)) for scan in scans.values()])
    label = np.concatenate([scan.labels for scan in scans.values()])
    content = np.concatenate([scan.content for scan in scans.values()])
    _, group, size = np.unique(content, axis=0, return_inverse=True, return_counts=True)
    group = group.reshape(-1)
    repeated = np.flatnonzero(size[group] > 1)
    places: dict[int, list[int]] = defaultdict(list)
    for place in repeated.tolist():
        places[int(group[place])].append(place)
    patches = {name: scan.patches() for name, scan in scans.items()}
    for members in places.values():
        # Different patches can have equal digests, so the bytes are compared.
        by_bytes: dict[bytes, list[int]] = defaultdict(list)
        for place in members:
            pixels = patches[str(split[place])][row[place : place + 1]]
            by_bytes[pixels.tobytes()].append(place)
        for equal in by_bytes.values():
            if len(equal) > 1:
                yield from _copies_of_one(
                    [(str(split[place]), int(row[place]), label[place]) for place in equal]
                )


def _copies_of_one(equal: list[tuple[str, int, float]]) -> Iterator[Finding]:
    """Return the findings on one group of equal patches, each given as (split, row, label)."""
    contradicting = len({label for _, _, label in equal}) > 1
    first_of: dict[str, int] = {}
    for split, row, label in equal:
        if contradicting:
            other = next((s, r) for s, r, other in equal if other != label)
            yield split, row, "contradiction", _name(*other)
        elif split in first_of:
            yield split, row, "duplicate", _name(split, first_of[split])
        first_of.setdefault(split, row)
    if len(first_of) > 1:
        for split, row, _ in equal:
            other = next((s, r) for s, r in first_of.items() if s != split)
            yield split, row, "cross_split_duplicate", _name(*other)


def _slides(scans: Scans) -> Iterator[Finding]:
    slides = {split: scan.slides for split, scan in scans.items()}
    known = {split: set(names) for split, names in slides.items() if names is not None}
    for split in known:
        for other in known:
            shared = known[split] & known[other]
            if other != split and shared:
                names = slides[split]
                assert names is not None
                for row in _rows(np.isin(names, list(shared))):
                    yield split, row, "slide_overlap", f"{names[row]} in {other}"


def _labels_in_meta(scan: SplitScan) -> np.ndarray | None:
    """Return the meta file's column `center_tumor_patch` as 0 and 1, None without this column."""
    if scan.meta is None or "center_tumor_patch" not in scan.meta:
        return None
    values = {"true": 1.0, "1": 1.0, "false": 0.0, "0": 0.0}
    texts = scan.meta["center_tumor_patch"]
    return np.array([values.get(text.strip().lower(), np.nan) for text in texts])


def _name(split: str, row: int) -> str:
    return f"{split}:{row}"


def _rows(mask: np.ndarray) -> Iterable[int]:
    return np.flatnonzero(mask).tolist()
