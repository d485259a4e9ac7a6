"""Schema of the command probe."""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from pcam_lightning.config.schema.fields import Accelerator, Name, Precision, Seed, StrictModel
from pcam_lightning.config.schema.groups import Data, Model
from pcam_lightning.config.schema.slurm import SlurmCommand

FIXED = {
    "sampler": ("shuffle", "every training patch counts once"),
    "num_workers": (0, "features are computed in this process"),
    "device_resident": ("auto", "patches are read once"),
}
"""Keys of the data that a probe does not use, with their only value and the reason."""


class ProbeTrainer(StrictModel):
    accelerator: Accelerator
    devices: Literal[1]
    num_nodes: Literal[1]
    precision: Precision | Literal[16, 32, 64]


class ProbeSection(StrictModel):
    features_dir: str | None
    penalties: Annotated[list[PositiveFloat], Field(min_length=1, max_length=64)]
    neighbors: list[PositiveInt]
    few_shot: list[PositiveInt]
    draws: Annotated[int, Field(ge=2, le=1000)]
    few_shot_penalty: PositiveFloat


class Probe(SlurmCommand):
    data: Data
    model: Model
    trainer: ProbeTrainer
    probe: ProbeSection
    seed: Seed
    experiment_name: Name
    run_dir: str

    @model_validator(mode="after")
    def _frozen_backbone(self) -> "Probe":
        if self.model.tune != "head":
            raise ValueError(
                f"model.tune={self.model.tune}: a probe fits the head on frozen features, expected "
                "model.tune=head"
            )
        return self

    @model_validator(mode="after")
    def _unused_keys(self) -> "Probe":
        for key, (value, reason) in FIXED.items():
            if getattr(self.data, key) != value:
                raise ValueError(
                    f"data.{key}={getattr(self.data, key)}: not used by a probe ({reason}), "
                    f"expected data.{key}={value}"
                )
        return self
