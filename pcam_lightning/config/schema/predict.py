"""Schema of the command predict."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, PositiveInt, model_validator

from pcam_lightning.config.schema.fields import Accelerator, Name, Precision, StrictModel
from pcam_lightning.config.schema.groups import Model, is_keys, is_scale
from pcam_lightning.config.schema.slurm import SlurmCommand


class PredictData(StrictModel):
    scale: Annotated[Any, AfterValidator(is_scale)]
    keys: Annotated[Any, AfterValidator(is_keys)]
    cache_dir: str | None
    batch_size: PositiveInt


class PredictSection(StrictModel):
    fit: Literal["center", "tile", "resize"]
    tta: Literal["none", "d4"]
    threshold: Annotated[float, Field(ge=0, le=1)] | None
    abstain: Annotated[float, Field(ge=0, lt=1)]
    column: str | None
    root: str | None
    gallery: Annotated[int, Field(ge=1, le=400)]
    sort: Literal["uncertain", "tumour"]


class PredictTrainer(StrictModel):
    accelerator: Accelerator
    precision: Precision | Literal[16, 32, 64]


class Predict(SlurmCommand):
    input: str
    run: str | None
    checkpoint: str | None
    bundle: str | None
    data: PredictData
    model: Model
    trainer: PredictTrainer
    predict: PredictSection
    experiment_name: Name
    run_dir: str

    @model_validator(mode="after")
    def _one_model(self) -> "Predict":
        if [self.run, self.checkpoint, self.bundle].count(None) != 2:
            raise ValueError("expected exactly one of run=, checkpoint= and bundle=")
        return self
