"""Comparison of an exported model with PyTorch on real patches."""

import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from tqdm import tqdm

from pcam_lightning.data.patch_features import Patches
from pcam_lightning.models.served import Served

Predict = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Maps uint8 [N, 96, 96, 3] to probabilities [N]."""

SMALL_BATCHES = (1, 2, 7)
"""Batch sizes to try: exporters have fixed the size, or handled 1 differently."""
TOLERANCE = 1e-4
"""Largest difference of a probability from PyTorch's."""


@dataclass(frozen=True)
class Comparison:
    """Probabilities of an exported model beside PyTorch's, on the N patches of a split."""

    patches: int
    largest_difference: float
    """Largest difference of a probability, at any batch size."""
    flipped_decisions: int
    threshold: float
    auroc: tuple[float | None, float | None]
    """PyTorch's and the exported model's; None if all labels are equal."""
    accuracy: tuple[float, float]
    patches_per_second: tuple[float, float]

    @property
    def is_equal(self) -> bool:
        """True if nobody can tell the exported model from PyTorch's."""
        # `not (>)` would accept NaN.
        return self.largest_difference <= TOLERANCE and self.flipped_decisions == 0

    def facts(self) -> dict[str, Any]:
        """Return plain JSON, without the speed, which differs from run to run."""
        facts = asdict(self)
        del facts["patches_per_second"]
        for name in ("auroc", "accuracy"):
            facts[name] = dict(zip(("pytorch", "exported"), facts[name], strict=True))
        return facts | {"tolerance": TOLERANCE, "batch_sizes": list(SMALL_BATCHES)}

    def speed(self) -> dict[str, float]:
        """Return the patches per second of PyTorch and of the exported model."""
        names = ("pytorch_patches_per_second", "patches_per_second")
        return dict(zip(names, self.patches_per_second, strict=True))


def compare(
    served: Served,
    exported: Predict,
    image: Patches,
    label: NDArray[np.int64],
    threshold: float,
    batch_size: int,
) -> Comparison:
    """Compare an exported model with PyTorch on every patch, and on the first at small batches.

    Args:
        served: the network, on the CPU.
        exported: the exported model.
        image: uint8 [N, 96, 96, 3].
        label: [N] of 0 or 1.
        threshold: tumour where a probability is at least this.
        batch_size: patches at a time.
    """

    def reference(part: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            return served(torch.from_numpy(part)).numpy()

    gaps = [_gap(reference(image[:n].copy()), exported(image[:n].copy())) for n in SMALL_BATCHES]
    seconds = [0.0, 0.0]
    found: list[list[NDArray[np.float32]]] = [[], []]
    starts = range(0, len(image), batch_size)
    for start in tqdm(starts, desc="compare", leave=False, disable=not sys.stderr.isatty()):
        part = image[start : start + batch_size].copy()  # not a view of a mapped file
        for which, predict in enumerate((reference, exported)):
            began = time.perf_counter()
            found[which].append(predict(part))
            seconds[which] += time.perf_counter() - began
    expected, actual = (np.concatenate(each).astype(np.float64) for each in found)
    decisions = [each >= threshold for each in (expected, actual)]
    mixed = label.min() < label.max() and bool(np.isfinite(actual).all())
    auroc = [float(roc_auc_score(label, each)) if mixed else None for each in (expected, actual)]
    return Comparison(
        patches=len(image),
        largest_difference=max(*gaps, _gap(expected, actual)),
        flipped_decisions=int((decisions[0] != decisions[1]).sum()),
        threshold=threshold,
        auroc=(auroc[0], auroc[1]),
        accuracy=(float((decisions[0] == label).mean()), float((decisions[1] == label).mean())),
        patches_per_second=(len(image) / seconds[0], len(image) / seconds[1]),
    )


def _gap(expected: NDArray[np.floating], actual: NDArray[np.floating]) -> float:
    """Return the largest difference, 1 where the exported model gave another shape or NaN."""
    if actual.shape != expected.shape or not np.isfinite(actual).all():
        return 1.0
    return float(np.abs(expected.astype(np.float64) - actual).max())
