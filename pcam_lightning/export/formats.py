"""Formats of an exported model. A file gets its name after it was compared with PyTorch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pcam_lightning.errors import CheckFailed
from pcam_lightning.export.comparison import TOLERANCE, Comparison, Predict, compare
from pcam_lightning.export.target import ExportTarget
from pcam_lightning.files import write_json

CALIBRATION_PATCHES = 256
"""Patches whose activations set the ranges of 8-bit numbers."""


def export_onnx(
    target: ExportTarget, folder: Path, batch_size: int, quantize: bool = False
) -> dict[str, Comparison]:
    """Write `model.onnx`, and `model_int8.onnx` if `quantize`.

    Returns:
        File name to its comparison with PyTorch. `model.onnx` is written only if it is equal; the
        loss of the 8-bit model is for the reader to judge.
    """
    from pcam_lightning.export.onnx import load_onnx, quantize_int8, write_onnx

    path, small = folder / "model.onnx", folder / "model_int8.onnx"
    facts = {
        "decision_threshold": repr(target.decision_threshold),
        "temperature": repr(target.served.temperature),
        "prior_offset": repr(target.served.prior_offset),
        "weights_digest": str(target.weights_digest),
    }
    found = {
        path.name: _compared(
            target, path, lambda draft: write_onnx(target.served, draft, facts), load_onnx,
            batch_size,
        )
    }  # fmt: skip
    if quantize and path.is_file():
        image = target.validation[0]
        rows = np.linspace(0, len(image) - 1, min(CALIBRATION_PATCHES, len(image))).astype(int)
        found[small.name] = _compared(
            target, small, lambda draft: quantize_int8(path, draft, image[rows]), load_onnx,
            batch_size, keep=True,
        )  # fmt: skip
    return found


def check_equal(name: str, found: Comparison, summary: dict[str, Any], folder: Path) -> None:
    """Raise CheckFailed, after writing `summary.json`, if an exported model is not equal."""
    if not found.is_equal:
        write_json(folder / "summary.json", summary)
        raise CheckFailed(
            f"{name} is not kept: its probabilities differ from PyTorch's by up to "
            f"{found.largest_difference:.1e}, and {found.flipped_decisions} decisions are others; "
            f"expected at most {TOLERANCE:g} and none",
            folder / "summary.json",
        )


def export_pt2(target: ExportTarget, folder: Path, batch_size: int) -> dict[str, Comparison]:
    """Write `model.pt2` if it is equal, and return its comparison as `export_onnx` does."""
    from pcam_lightning.export.torch_export import load_pt2, write_pt2

    path = folder / "model.pt2"
    found = _compared(
        target, path, lambda draft: write_pt2(target.served, draft), load_pt2, batch_size
    )
    return {path.name: found}


def _compared(
    target: ExportTarget,
    path: Path,
    write: Callable[[Path], None],
    load: Callable[[Path], Predict],
    batch_size: int,
    keep: bool = False,
) -> Comparison:
    """Write a file under another name, compare it, and rename it if it is equal or `keep`."""
    draft = path.with_name(f".partial.{path.name}")
    try:
        write(draft)
        image, label = target.validation
        found = compare(
            target.served, load(draft), image, label, target.decision_threshold, batch_size
        )
        if keep or found.is_equal:
            draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return found
