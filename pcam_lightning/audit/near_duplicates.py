"""Near-duplicates: patches that show the same tissue again, changed.

Landmarks propose pairs, and the correlation of their band-passed pixels decides. This finds patches
that were encoded again, turned, mirrored, brightened, darkened, or shifted by up to 24 pixels along
each axis, and combinations of these. It does not find patches that were scaled, turned by other
angles or shifted further, and does not compare patches with little structure, such as glass.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from pcam_lightning.audit.correlation import ORIENTATIONS, Alignment, align, shows_same_tissue
from pcam_lightning.audit.landmarks import LandmarkCoder, Landmarks, band_passed
from pcam_lightning.audit.proposals import Proposals, propose
from pcam_lightning.audit.scan import SplitScan
from pcam_lightning.data.files import SplitFiles, check_images
from pcam_lightning.data.h5 import DirectPatches
from pcam_lightning.data.scale import BYTES, Scale, appearance, sample

Scans = Mapping[str, SplitScan]
Place = tuple[str, int]
"""Split and row of a patch."""

COLUMNS = (
    "split", "row", "kind", "other_split", "other_row",
    "orientation", "shift_y", "shift_x", "correlation",
)  # fmt: skip
FITTED, RUN = 256, 8
"""Patches of each split to which the codes are fitted, and how many of them are read in a row."""
PAIRS_AT_ONCE = 2048
"""Pairs whose patches are in memory together: about 300 MB."""


@dataclass(frozen=True)
class NearDuplicates:
    """Near-duplicates found in all splits."""

    table: pd.DataFrame
    """One row per finding (`COLUMNS`). `split:row` is `other_split:other_row` after it was brought
    into `orientation` (an index into `correlation.ORIENTATIONS`) and moved down and right."""
    facts: dict[str, int]
    """Numbers of patches compared and not compared (different ones only), of pairs proposed and
    found, and of pairs of landmarks left out since too many were alike."""


def fit_coder(files: Mapping[str, SplitFiles], scale: Scale | None = None) -> LandmarkCoder:
    """Fit the codes of landmarks to some patches of each split; `scale` is as in `scan_split`."""
    parts = []
    for each in files.values():
        rows = check_images(each)
        read_as = scale or appearance(sample(each)).scale or BYTES
        starts = np.unique(np.linspace(0, max(0, rows - RUN), FITTED // RUN).astype(np.int64))
        chosen = np.unique(np.minimum(starts[:, None] + np.arange(RUN), rows - 1))
        parts.append(DirectPatches(each, rows, read_as)[chosen])
    return LandmarkCoder(np.concatenate(parts))


def find_near_duplicates(scans: Scans, bar: tqdm) -> NearDuplicates:
    """Find near-duplicates in scans that have landmarks.

    A patch is a `near_duplicate` if it shows the same tissue as an earlier patch of its split, and
    a `cross_split_near_duplicate` if it does so with any patch of another split. Of several
    partners, the one with the highest correlation is named. Equal patches are one patch here: they
    are duplicates already, and only the first of them in a split can be a near-duplicate in it.
    """
    content = np.concatenate([scan.content for scan in scans.values()])
    _, first, patch = np.unique(content, axis=0, return_index=True, return_inverse=True)
    places = [(split, row) for split, scan in scans.items() for row in range(len(scan))]
    equal: dict[int, list[Place]] = defaultdict(list)
    for place, representative in zip(places, first[patch.reshape(-1)].tolist(), strict=True):
        equal[representative].append(place)
    different = np.sort(first)
    landmarks = Landmarks.concatenate(_landmarks(scan) for scan in scans.values())
    landmarks = Landmarks(
        landmarks.position[different], landmarks.code[different], landmarks.compared[different]
    )
    proposals = propose(landmarks)
    pairs = _decide(proposals, [places[each] for each in different.tolist()], scans, bar)
    best: dict[tuple[Place, str], tuple[Place, Alignment]] = {}
    for one, other, alignment in pairs:
        members = [equal[int(different[each])] for each in (one, other)]
        _report(best, members[0], members[1], alignment)
    compared = int(landmarks.compared.sum())
    facts = {
        "compared": compared,
        "not_compared": len(different) - compared,
        "pairs_proposed": len(np.unique(proposals.first << 32 | proposals.second)),
        "pairs_found": len(pairs),
        "landmark_pairs_left_out": proposals.pairs_cut,
    }
    rows = [
        (*place, kind, *other, fit.orientation, fit.shift_y, fit.shift_x, fit.correlation)
        for (place, kind), (other, fit) in best.items()
    ]
    return NearDuplicates(pd.DataFrame(rows, columns=list(COLUMNS)), facts)


def write_alignments(table: pd.DataFrame, path: Path) -> None:
    """Write the table of `NearDuplicates` as parquet, with the orientations as words."""
    words = [ORIENTATIONS[each] for each in table["orientation"]]
    table.assign(orientation=words).to_parquet(path, index=False)


def _report(
    best: dict[tuple[Place, str], tuple[Place, Alignment]],
    one: list[Place],
    other: list[Place],
    alignment: Alignment,
) -> None:
    """Enter the findings on two groups of equal patches, in the order of the splits and rows."""

    def enter(place: Place, kind: str, partner: Place, fit: Alignment) -> None:
        known = best.get((place, kind))
        if known is None or fit.correlation > known[1].correlation:
            best[place, kind] = (partner, fit)

    directions = ((one, other, alignment), (other, one, alignment.inverse()))
    for here, there, fit in directions:
        first_there = dict(reversed(there))
        first_here = dict(reversed(here))
        for split, row in here:
            earlier = first_there.get(split)
            if earlier is not None and row == first_here[split] and earlier < row:
                enter((split, row), "near_duplicate", (split, earlier), fit)
            partner = next((place for place in there if place[0] != split), None)
            if partner is not None:
                enter((split, row), "cross_split_near_duplicate", partner, fit)


def _decide(
    proposals: Proposals, places: list[Place], scans: Scans, bar: tqdm
) -> list[tuple[int, int, Alignment]]:
    """Return the pairs whose pixels correlate, with their best alignments."""
    patches = {split: scan.patches() for split, scan in scans.items()}
    found: dict[tuple[int, int], Alignment] = {}
    bar.reset(total=len(proposals))
    for start in range(0, len(proposals), PAIRS_AT_ONCE):
        part = slice(start, start + PAIRS_AT_ONCE)
        ones, others = proposals.first[part].tolist(), proposals.second[part].tolist()
        band = _read_bands({*ones, *others}, places, patches)
        for one, other, orientation, (y, x) in zip(
            ones, others, proposals.orientation[part].tolist(), proposals.shift[part].tolist(),
            strict=True,
        ):  # fmt: skip
            fit = align(band[one], band[other], Alignment(orientation, y, x))
            better = (one, other) not in found or fit.correlation > found[one, other].correlation
            if better and shows_same_tissue(band[one], band[other], fit):
                found[one, other] = fit
        bar.update(len(ones))
    return [(one, other, fit) for (one, other), fit in found.items()]


def _read_bands(
    wanted: set[int], places: list[Place], patches: Mapping[str, DirectPatches]
) -> dict[int, np.ndarray]:
    """Return the band-passed patches, read in ascending order."""
    result: dict[int, np.ndarray] = {}
    for split, reader in patches.items():
        numbers = sorted(number for number in wanted if places[number][0] == split)
        rows = np.array([places[number][1] for number in numbers], np.int64)
        result |= dict(zip(numbers, band_passed(reader[rows]), strict=True))
    return result


def _landmarks(scan: SplitScan) -> Landmarks:
    if scan.landmarks is None:
        raise ValueError("the scan has no landmarks, give scan_split a coder")
    return scan.landmarks
