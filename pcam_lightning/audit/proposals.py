"""Proposals: pairs of patches that share at least two landmarks at one orientation and shift.

Landmarks with an equal word of their codes are hits. Hits of two patches that agree on orientation
and shift propose an alignment. Sorting finds the hits, so time grows almost linearly with the
number of patches, and hits are turned into alignments in parts of bounded memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pcam_lightning.audit.correlation import FARTHEST, turn_vector
from pcam_lightning.audit.landmarks import COUNT, SIDE, WORDS, Landmarks

LARGEST_BUCKET = 256
"""Landmarks with an equal word, each of which is compared with all others; in a larger bucket each
is compared with the next 255 only, and the pairs left out are counted."""
LEAST_HITS = 2
CLOSE = 4
"""Width in pixels of the bins in which shifts agree; bins overlap by half."""
HYPOTHESES = 3
"""Alignments tried for a pair, those with the most hits first."""
HITS_AT_ONCE = 400_000


@dataclass(frozen=True)
class Proposals:
    """Proposed alignments of pairs of patches, ordered by pair; several may have the same pair."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    orientation: NDArray[np.int64]
    shift: NDArray[np.int64]
    """[P, 2], in pixels."""
    pairs_cut: int
    """Pairs of landmarks that were not compared, since their buckets were too large."""

    def __len__(self) -> int:
        return len(self.first)


def propose(landmarks: Landmarks) -> Proposals:
    """Propose alignments of all pairs of patches; the first patch of a pair has the lower index."""
    hits, cut = _hits(landmarks)
    parts = [_alignments(part, landmarks.position) for part in _parts(hits)]
    table = np.concatenate(parts) if parts else np.empty((0, 5), np.int64)
    return Proposals(table[:, 0], table[:, 1], table[:, 2], table[:, 3:], cut)


def _hits(landmarks: Landmarks) -> tuple[NDArray[np.int64], int]:
    """Return pairs of landmarks [H, 2] of pairs of patches with enough hits, ordered by pair.

    Landmark n is landmark n % COUNT of patch n // COUNT.
    """
    present = np.flatnonzero(landmarks.position[..., 0].reshape(-1))
    codes = landmarks.code.reshape(-1, WORDS)[present]
    total, found, cut = landmarks.position.shape[0] * COUNT, [np.empty(0, np.int64)], 0
    for word in range(WORDS):
        order = np.argsort(codes[:, word], kind="stable")
        values = codes[order, word]
        starts = np.flatnonzero(np.diff(values, prepend=values[:1] + 1) != 0)
        size = np.diff(starts, append=len(values))
        cut += int(_pairs_left_out(size).sum())
        left = np.repeat(starts + size, size) - np.arange(len(values))
        for distance in range(1, min(LARGEST_BUCKET, int(size.max(initial=0)))):
            place = np.flatnonzero(left > distance)
            one, other = present[order[place]], present[order[place + distance]]
            other_patch = one // COUNT != other // COUNT  # the stable sort keeps one < other
            found.append(one[other_patch] * total + other[other_patch])
    hits = np.stack(np.divmod(np.unique(np.concatenate(found)), max(1, total)), axis=1)
    pair = hits[:, 0] // COUNT * (total // COUNT) + hits[:, 1] // COUNT
    order = np.argsort(pair, kind="stable")
    _, number, count = np.unique(pair[order], return_inverse=True, return_counts=True)
    return hits[order][count[number] >= LEAST_HITS], cut


def _pairs_left_out(size: NDArray[np.int64]) -> NDArray[np.int64]:
    rest = np.maximum(size - LARGEST_BUCKET, 0)
    return rest * (rest + 1) // 2


def _parts(hits: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Split the hits between pairs of patches."""
    changes = np.flatnonzero((np.diff(hits // COUNT, axis=0) != 0).any(axis=1)) + 1
    borders = changes[np.searchsorted(changes, range(0, len(hits), HITS_AT_ONCE)[1:]) - 1]
    yield from (part for part in np.split(hits, np.unique(borders)) if len(part))


def _alignments(hits: NDArray[np.int64], position: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return alignments on which hits agree: first, second, orientation, shift; int64 [P, 5]."""
    patch = hits // COUNT
    # Doubled and relative to the center, which lies between pixels, so that turning is exact.
    place = 2 * position.reshape(-1, 2)[hits].astype(np.int64) - (SIDE - 1)
    voted = []
    for orientation in range(8):
        turned = np.stack(turn_vector(place[:, 1, 0], place[:, 1, 1], orientation), axis=1)
        shift = (place[:, 0] - turned) // 2
        near = (np.abs(shift) <= FARTHEST + 1).all(axis=1)
        column = np.full((near.sum(), 1), orientation)
        voted.append(np.concatenate([patch[near], column, shift[near]], axis=1))
    votes = np.concatenate(voted)
    _, number = np.unique(votes[:, 0] << 32 | votes[:, 1], return_inverse=True)
    results = []
    for start in ((0, 0), (0, 1), (1, 0), (1, 1)):
        bins = (votes[:, 3:] + 64 + np.array(start) * (CLOSE // 2)) // CLOSE
        key = ((number * 8 + votes[:, 2]) * 64 + bins[:, 0]) * 64 + bins[:, 1]
        _, index, count = np.unique(key, return_index=True, return_counts=True)
        enough = count >= LEAST_HITS
        results.append(np.concatenate([votes[index], count[:, None]], axis=1)[enough])
    merged = np.unique(np.concatenate(results), axis=0)
    order = np.lexsort((-merged[:, 5], merged[:, 1], merged[:, 0]))
    merged = merged[order]
    _, begin, number = np.unique(
        merged[:, 0] << 32 | merged[:, 1], return_index=True, return_inverse=True
    )
    return merged[np.arange(len(merged)) - begin[number] < HYPOTHESES, :5]
