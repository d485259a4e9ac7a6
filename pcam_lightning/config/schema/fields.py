"""Types that several schemas share.

A `StrictModel` forbids unknown keys. An `Instantiable` names a class or function in `_target_` and
passes it every other key; its schema checks only keys with a known range, so a new optimizer or
network needs one new YAML file only. `build.check_targets` checks that the target takes the keys.
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveInt

from pcam_lightning.data.findings import KINDS

Probability = Annotated[float, Field(ge=0, lt=1)]
Fraction = Annotated[float, Field(gt=0, le=1)]
Amount = PositiveInt | Annotated[float, Field(gt=0, le=1)]
"""Lightning's limit of batches: a number of batches, or a fraction of the epoch."""


def _is_kind(value: str) -> str:
    if value not in KINDS:
        raise ValueError(f"expected one of {', '.join(KINDS)}")
    return value


Finding = Annotated[str, AfterValidator(_is_kind)]
"""A kind of finding of an audit."""

Seed = Annotated[int, Field(ge=0, lt=2**32)]
Name = Annotated[str, Field(pattern=r"^[\w.-]+$")]


class StrictModel(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Instantiable(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)

    target: str = Field(alias="_target_")


Precision = Literal[
    "auto",
    "32",
    "32-true",
    "64",
    "64-true",
    "bf16",
    "bf16-mixed",
    "bf16-true",
    "16",
    "16-mixed",
    "16-true",
]
Accelerator = Literal["auto", "cpu", "gpu", "cuda", "mps"]
