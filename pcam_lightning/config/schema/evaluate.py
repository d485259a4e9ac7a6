"""Schema of the command evaluate."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, PositiveFloat, PositiveInt, model_validator

from pcam_lightning.config.schema.fields import Name, Seed, StrictModel
from pcam_lightning.config.schema.groups import Data, Model, Trainer
from pcam_lightning.config.schema.slurm import SlurmCommand
from pcam_lightning.errors import InputError


def _is_rule(value: str | float) -> str | float:
    from pcam_lightning.metrics.thresholds import RULES, parse_rule  # imports NumPy

    try:
        parse_rule(value)
    except InputError:
        raise ValueError(f"expected one of {RULES}") from None
    return value


class CustomSlice(StrictModel):
    column: str
    at_least: float | None = Field(None, alias="from")
    below: float | None = None
    among: Annotated[list[str | int | float | bool], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _bounded(self) -> "CustomSlice":
        if self.at_least is None and self.below is None and self.among is None:
            raise ValueError("expected at least one of from (>=), below (<) and among (a list)")
        return self


class EvaluateSection(StrictModel):
    threshold: Annotated[str | float, AfterValidator(_is_rule)]
    beta: PositiveFloat
    cost_ratio: PositiveFloat
    tta: Literal["none", "d4"]
    stain_jitter: PositiveFloat | None
    slices: dict[Name, CustomSlice] | None
    hospitals: str | None
    gallery: PositiveInt
    attribution: Literal["none", "grad_cam", "occlusion"]
    resamples: Annotated[int, Field(ge=100)]


class Evaluate(SlurmCommand):
    run: str | None
    checkpoint: str | None
    predictions: str | Annotated[list[str], Field(min_length=1)] | None
    split: Literal["val", "test"]
    evaluate: EvaluateSection
    seed: Seed
    experiment_name: Name
    run_dir: str
    data: Data
    model: Model
    trainer: Trainer

    @model_validator(mode="after")
    def _one_thing_on_one_device(self) -> "Evaluate":
        if [self.run, self.checkpoint, self.predictions].count(None) != 2:
            raise ValueError("expected exactly one of run=, checkpoint= and predictions=")
        devices = self.trainer.devices
        one = devices in (1, "auto") or (isinstance(devices, list) and len(devices) == 1)
        if not one or self.trainer.num_nodes != 1:
            raise ValueError("evaluate works on one device: expected trainer.devices=1")
        if self.predictions is not None:
            for key in ("tta", "stain_jitter", "attribution"):
                if getattr(self.evaluate, key) not in ("none", None):
                    raise ValueError(
                        f"evaluate.{key}={getattr(self.evaluate, key)}: needs the model, expected "
                        "run= or checkpoint= instead of predictions="
                    )
        return self
