"""The threshold that was chosen for a run's model, kept in its folder for who uses the model."""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pcam_lightning.runs.record import RunFileError, read_json, write_json

NAME = "threshold.json"


@dataclass(frozen=True)
class Threshold:
    """From which probability on a model's patches are called tumour, and why."""

    value: float
    """Tumour where sigmoid(logit) >= value, with logits as the model gives them; 0 to just over 1,
    which nothing reaches."""
    rule: str
    """How it was chosen, such as "recall>=0.95"."""
    temperature: float | None
    """sigmoid(logit / temperature) is the calibrated probability; None where there is none."""
    tta: str
    """Which test-time augmentation the logits were made with: "none" or "d4"."""
    checkpoint: str | None
    """The checkpoint's file name."""
    weights_digest: str | None
    """Of the network it was chosen for, as in the run's summary."""
    dataset: dict[str, Any]
    """`name`, and `fingerprint` where it is known, of the data it was chosen on."""
    validation: dict[str, Any]
    """`rows`, `tumours` and what the threshold scored on them; empty for a given number."""


def write_threshold(folder: Path, threshold: Threshold) -> Path:
    """Write `threshold.json` in a run folder, atomically, over an earlier one."""
    path = folder / NAME
    write_json(path, asdict(threshold))
    return path


def read_threshold(folder: Path) -> Threshold | None:
    """The threshold of a run folder, or None where none has been chosen.

    Raises:
        RunFileError: the file is no threshold.
    """
    path = folder / NAME
    if not path.is_file():
        return None
    found = read_json(path)
    missing = [name for name in Threshold.__dataclass_fields__ if name not in found]
    if missing:
        raise RunFileError(f"{path}: no {missing[0]}, expected what evaluate writes")
    threshold = Threshold(**{name: found[name] for name in Threshold.__dataclass_fields__})
    if not _is_number(threshold.value) or not 0 <= threshold.value <= math.nextafter(1, 2):
        raise RunFileError(f"{path}: value={threshold.value!r}, expected a probability")
    temperature = threshold.temperature
    if temperature is not None and (not _is_number(temperature) or temperature <= 0):
        raise RunFileError(f"{path}: temperature={temperature!r}, expected a number above 0")
    if threshold.tta not in ("none", "d4"):
        raise RunFileError(f"{path}: tta={threshold.tta!r}, expected 'none' or 'd4'")
    return threshold


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
