"""Planted damage of a demo set: faults that an audit must find, each of which is listed."""

import io
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pcam_lightning.data.files import SPLITS

FAULTS_OF_A_SPLIT = 28
"""Number of patches of a split that `plant_damage` may change or copy."""
CHANGES = ("encoded", "mirrored", "turned", "brightened", "shifted")
"""Changes of near-duplicates."""
QUALITY = 75
"""Quality of JPEG."""
FARTHEST = 24
"""Largest shift in pixels."""
CONTRAST = 15.0
"""Deviation in gray levels of each quarter of a patch that is not mostly empty glass."""


def plant_damage(
    images: dict[str, NDArray[np.generic]],
    labels: dict[str, NDArray[np.uint8]],
    rng: np.random.Generator,
) -> list[tuple[str, int, str, str]]:
    """Damage every split in place; return the faults as split, row, kind and value.

    Kinds and values: `nan_pixels`, `infinity` and `out_of_range` (the number of pixel values; only
    for floats; 1e5 and -20 are out of range), `black` and `white` (the patch's mean), `duplicate`
    and `cross_split_duplicate` (the copied patch, as split:row), `contradiction` (the same, with
    the other label), `near_duplicate` and `cross_split_near_duplicate` (the patch that was copied
    and changed, see `CHANGES`; the label is copied even if a shift moved other tissue to the
    center). No row is part of two faults.
    """
    planted: list[tuple[str, int, str, str]] = []
    # Patches with little structure have no near-duplicates, so they are damaged first.
    order = {split: rng.permutation(len(labels[split])) for split in SPLITS}
    rich = {split: _has_structure(images[split][rows]) for split, rows in order.items()}
    free = {
        split: order[split][np.argsort(rich[split], kind="stable")].tolist() for split in SPLITS
    }
    first = {split: iter(rows) for split, rows in free.items()}
    last = {split: iter(rows[::-1]) for split, rows in free.items()}

    def copy(kind: str, split: str, source_split: str, flip: bool = False) -> None:
        row, source = next(first[split]), next(first[source_split])
        images[split][row] = images[source_split][source]
        labels[split][row] = labels[source_split][source] ^ flip
        planted.append((split, row, kind, f"{source_split}:{source}"))

    for split in SPLITS:
        pixels = images[split]
        if pixels.dtype.kind == "f":
            for kind, value in (("nan_pixels", np.nan), ("infinity", np.inf), ("infinity", -np.inf),
                                ("out_of_range", 1e5), ("out_of_range", -20)):  # fmt: skip
                row, count = next(first[split]), int(rng.integers(1, 50))
                flat = pixels[row].reshape(-1)
                flat[rng.choice(flat.size, count, replace=False)] = value
                planted.append((split, row, kind, str(count)))
        for kind, value in (("black", 0), ("white", 255)):
            row = next(first[split])
            # Equal blank patches would be duplicates, too.
            pixels[row] = value
            pixels[row, SPLITS.index(split), :2, 0] = abs(value - 1)
            planted.append((split, row, kind, f"{pixels[row].mean():.4f}"))
        copy("duplicate", split, split)
        copy("contradiction", split, split, flip=True)
    copy("cross_split_duplicate", "valid", "train")
    copy("cross_split_duplicate", "test", "train")
    planted += _plant_near_duplicates(images, labels, last, rng)
    return planted


def _plant_near_duplicates(
    images: dict[str, NDArray[np.generic]],
    labels: dict[str, NDArray[np.uint8]],
    free: dict[str, Iterator[int]],
    rng: np.random.Generator,
) -> Iterator[tuple[str, int, str, str]]:
    places = [(split, split, change) for split in SPLITS for change in CHANGES]
    places += [(("valid", "test")[n % 2], "train", change) for n, change in enumerate(CHANGES)]
    for split, source_split, change in places:
        row, source = next(free[split]), next(free[source_split])
        original, replaced = (
            images[name][place].astype(np.uint8)
            for name, place in ((source_split, source), (split, row))
        )
        images[split][row] = _changed(original, replaced, change, rng)
        labels[split][row] = labels[source_split][source]
        kind = "near_duplicate" if split == source_split else "cross_split_near_duplicate"
        yield split, row, kind, f"{source_split}:{source}"


def _changed(
    patch: NDArray[np.uint8], other: NDArray[np.uint8], change: str, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Change a patch [96, 96, 3]; a shift uncovers pixels of the other patch."""
    if change == "encoded":
        buffer = io.BytesIO()
        Image.fromarray(patch).save(buffer, "JPEG", quality=QUALITY)
        return np.asarray(Image.open(buffer))
    if change == "mirrored":
        return patch[:, ::-1]
    if change == "turned":
        return np.rot90(patch, int(rng.integers(1, 4)))
    if change == "brightened":
        return np.clip(patch * 1.1 + 5.0, 0, 255).round().astype(np.uint8)
    y, x = rng.integers(8, FARTHEST + 1, 2).tolist()
    shifted = other.copy()
    shifted[y:, x:] = patch[:-y, :-x]
    return shifted


def _has_structure(patches: NDArray[np.generic]) -> NDArray[np.bool_]:
    """Return whether each quarter of a patch has contrast. [N, 96, 96, 3] to bool [N]."""
    quarters = patches.mean(axis=3, dtype=np.float32).reshape(-1, 2, 48, 2, 48)
    return (quarters.std(axis=(2, 4)) >= CONTRAST).all(axis=(1, 2))
