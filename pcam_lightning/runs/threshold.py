"""The threshold that was chosen for a run's model, kept in its folder for who uses the model."""

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
    """From which probability on a model's patches are called tumour, and why."""

    model_config = ConfigDict(frozen=True, strict=True)

    value: Annotated[float, Field(ge=0, le=math.nextafter(1, 2))]
    """Tumour where sigmoid(logit) >= value, with logits as the model gives them; 0 to just over 1,
    which nothing reaches."""
    rule: str
    """How it was chosen, such as "recall>=0.95"."""
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None
    """sigmoid(logit / temperature) is the calibrated probability; None where there is none."""
    tta: Literal["none", "d4"]
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
    write_json(path, threshold.model_dump())
    return path


def read_threshold(folder: Path) -> Threshold | None:
    """The threshold of a run folder, or None where none has been chosen.

    Raises:
        RunFileError: the file is no threshold.
    """
    path = folder / NAME
    if not os.path.lexists(path):
        return None
    return Threshold(**checked(path, read_json(path), Threshold))
