"""The appearance of a run's training patches, kept in its folder for users of the model."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from pcam_lightning.files import write_json
from pcam_lightning.runs.contents import checked
from pcam_lightning.runs.files import read_json

NAME = "features.json"

Quantiles = Annotated[
    list[Annotated[float, Field(allow_inf_nan=False)]], Field(min_length=2, max_length=10_000)
]

Name = Literal["brightness", "blank", "hue", "saturation", "sharpness"]
"""As in `data.patch_features`."""


class Features(BaseModel):
    """Quantiles of each feature, from 0 to 1 in equal steps (see `metrics.drift`)."""

    model_config = ConfigDict(strict=True)

    patches: Annotated[int, Field(ge=1)]
    quantiles: dict[Name, Quantiles]


def write_features(folder: Path, reference: dict[str, Any]) -> None:
    """Write `features.json` in a run folder, atomically."""
    write_json(folder / NAME, reference)


def read_features(folder: Path) -> dict[str, Any] | None:
    """Return what `write_features` wrote, or None where a run has no such file.

    Raises:
        RunFileError: the file is damaged.
    """
    path = folder / NAME
    if not os.path.lexists(path):
        return None
    return checked(path, read_json(path), Features)
