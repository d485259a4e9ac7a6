"""Golden patches: patches with known probabilities, by which a bundle verifies itself."""

import io

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from pcam_lightning.metrics.predictions import sigmoid

COUNT = 16
FOLDER = "golden"


def choose_golden(logit: ArrayLike, label: ArrayLike, count: int = COUNT) -> NDArray[np.int64]:
    """Choose patches that spread over the range of probabilities, half of them from each label.

    For each label, the patches are the nearest ones to equally spaced probabilities from the
    lowest to the highest; the first row wins a tie. The same input gives the same choice.

    Args:
        logit: [N] finite floats.
        label: [N] of 0 or 1.
        count: number of patches to choose.

    Returns:
        Positions in `logit`, ascending; min(count, N) of them.
    """
    probability, label = sigmoid(logit), np.asarray(label)
    zeros, ones = (int((label == each).sum()) for each in (0, 1))
    of_ones = min(ones, max(count // 2, count - zeros))
    chosen = []
    for value, wanted in ((0, min(zeros, count - of_ones)), (1, of_ones)):
        rows = np.flatnonzero(label == value)
        for target in _targets(probability[rows], wanted):
            nearest = int(np.argmin(np.abs(probability[rows] - target)))
            chosen.append(rows[nearest])
            rows = np.delete(rows, nearest)
    return np.sort(np.array(chosen, dtype=np.int64))


def _targets(probability: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    return np.linspace(probability.min(), probability.max(), count) if count else np.empty(0)


def golden_files(patches: NDArray[np.uint8], probability: ArrayLike) -> dict[str, bytes]:
    """Return golden patches as PNG files, and `golden/expected.csv` with their probabilities.

    Args:
        patches: uint8 [N, 96, 96, 3].
        probability: [N] that the exported graph returned for them.
    """
    found = np.asarray(probability, dtype=np.float64)
    if patches.dtype != np.uint8 or patches.ndim != 4 or found.shape != patches.shape[:1]:
        raise ValueError(f"patches {patches.dtype} {patches.shape}, probability {found.shape}")
    files, lines = {}, ["file,probability\n"]
    for number, (patch, value) in enumerate(zip(patches, found, strict=True)):
        name = f"patch_{number:02}.png"
        content = io.BytesIO()
        Image.fromarray(patch).save(content, "PNG")
        files[f"{FOLDER}/{name}"] = content.getvalue()
        lines.append(f"{name},{value:.9g}\n")
    return {**files, f"{FOLDER}/expected.csv": "".join(lines).encode()}
