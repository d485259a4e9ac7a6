"""The decision threshold of a run's model, stored in the run folder."""

import math
import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from pcam_lightning.files import write_json
from pcam_lightning.runs.contents import checked
from pcam_lightning.runs.files import read_json

NAME = "threshold.json"


class Threshold(BaseModel):
    """The probability from which a patch is classified as tumour, and the choice of it."""

    model_config = ConfigDict(frozen=True, strict=True)

    value: Annotated[float, Field(ge=0, le=math.nextafter(1, 2))]
    """Tumour if sigmoid(logit) >= value, with uncalibrated logits. The largest value is just over
    1, which no probability reaches."""
    rule: str
    """Rule of the choice, such as "recall>=0.95"."""
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None
    """sigmoid((logit + prior_offset) / temperature) is the calibrated probability; None divides by
    1."""
    prior_offset: Annotated[float, Field(allow_inf_nan=False)] = 0.0
    """Corrects logits for the share of tumour in training (see `metrics.calibration`)."""
    tta: Literal["none", "d4"]
    """Test-time augmentation of the logits."""
    checkpoint: str | None
    """File name of the checkpoint."""
    weights_digest: str | None
    """Digest of the weights it was chosen for, as in the run's summary."""
    dataset: dict[str, Any]
    """`name`, and `fingerprint` if known, of the data it was chosen on."""
    validation: dict[str, Any]
    """`rows`, `tumours` and metrics at this threshold; empty for a threshold given as a number."""


def write_threshold(folder: Path, threshold: Threshold) -> Path:
    """Write `threshold.json` in a run folder, atomically, and return its path."""
    path = folder / NAME
    write_json(path, threshold.model_dump())
    return path


def read_threshold(folder: Path) -> Threshold | None:
    """Return the threshold of a run folder, or None if none has been chosen.

    Raises:
        RunFileError: the file is damaged.
    """
    path = folder / NAME
    if not os.path.lexists(path):
        return None
    return Threshold(**checked(path, read_json(path), Threshold))
