"""Print how many planted near-duplicates the audit finds, for each change, as a Markdown table.

python scripts/near_duplicate_recall.py data/pcam 200

Copies of patches of the training split are changed in memory and searched for together with their
originals. A shift needs tissue outside the patch: the uncovered edge shows another patch.
"""

import io
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from threadpoolctl import threadpool_limits

from pcam_lightning.audit.correlation import Alignment, align, shows_same_tissue
from pcam_lightning.audit.landmarks import LandmarkCoder, Landmarks, band_passed
from pcam_lightning.audit.proposals import propose
from pcam_lightning.data.files import check_images, split_files
from pcam_lightning.data.h5 import DirectPatches

Change = Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]


def encode(patch: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(patch)).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def orient(patch: np.ndarray, orientation: int) -> np.ndarray:
    turned = np.rot90(patch, orientation % 4)
    return turned[:, ::-1] if orientation >= 4 else turned


def light(patch: np.ndarray, gain: float) -> np.ndarray:
    return np.clip(patch * gain, 0, 255).round().astype(np.uint8)


def shift(
    patch: np.ndarray, other: np.ndarray, distance: int, rng: np.random.Generator
) -> np.ndarray:
    """Shift by `distance` along both axes, each in a random direction."""
    down, right = rng.integers(0, 2, 2) * 2 - 1
    view, shown = (each[::down, ::right].copy() for each in (other, patch))
    view[distance:, distance:] = shown[: 96 - distance, : 96 - distance]
    return view[::down, ::right]


CHANGES: dict[str, Change] = {
    "JPEG quality 75": lambda patch, other, rng: encode(patch, 75),
    "JPEG quality 50": lambda patch, other, rng: encode(patch, 50),
    "turned or mirrored": lambda patch, other, rng: orient(patch, int(rng.integers(1, 8))),
    "20 % brighter": lambda patch, other, rng: light(patch, 1.2),
    "20 % darker": lambda patch, other, rng: light(patch, 0.8),
    **{
        f"shifted {n} px along both axes": lambda patch, other, rng, n=n: shift(
            patch, other, n, rng
        )
        for n in (4, 8, 16, 24)
    },
    "turned or mirrored, JPEG quality 50": lambda patch, other, rng: encode(
        orient(patch, int(rng.integers(1, 8))), 50
    ),
    "shifted 24 px, turned or mirrored, JPEG quality 50": lambda patch, other, rng: encode(
        orient(shift(patch, other, 24, rng), int(rng.integers(1, 8))), 50
    ),
}


def main(root: Path, count: int) -> None:
    files = split_files(root)["train"]
    rng = np.random.default_rng(0)
    with threadpool_limits(1, user_api="blas"):
        reader = DirectPatches(files, check_images(files))
        rows = rng.choice(len(reader), 6 * count, replace=False)
        patches = reader[rows]
        coder = LandmarkCoder(patches)
        patches = patches[coder(patches).compared]
        originals, others = patches[:count], patches[count : 2 * count]
        print(f"{len(originals)} patches with enough structure\n\n| change | found |\n|---|---|")
        for name, change in CHANGES.items():
            pairs = zip(originals, others, strict=True)
            copies = np.stack([change(patch, other, rng) for patch, other in pairs])
            print(f"| {name} | {recall(coder, originals, copies):.1%} |", flush=True)


def recall(coder: LandmarkCoder, originals: np.ndarray, copies: np.ndarray) -> float:
    """Return the share of pairs that are proposed and correlate."""
    landmarks = Landmarks.concatenate((coder(originals), coder(copies)))
    bands = band_passed(np.concatenate((originals, copies)))
    proposals, found = propose(landmarks), set()
    for first, second, orientation, (y, x) in zip(
        proposals.first, proposals.second, proposals.orientation, proposals.shift, strict=True
    ):
        if second == first + len(originals):
            fit = align(bands[first], bands[second], Alignment(int(orientation), int(y), int(x)))
            if shows_same_tissue(bands[first], bands[second], fit):
                found.add(int(first))
    return len(found) / len(originals)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
