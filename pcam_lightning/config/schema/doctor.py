"""Schema of the command doctor."""

from typing import Annotated

from pydantic import Field

from pcam_lightning.config.schema.fields import Name, Seed, StrictModel
from pcam_lightning.config.schema.groups import Data
from pcam_lightning.config.schema.slurm import Cluster


class DoctorSection(StrictModel):
    outputs: Annotated[str, Field(min_length=1)]
    digests: bool
    submit: bool
    wait_s: Annotated[float, Field(gt=0)]


class Doctor(StrictModel):
    doctor: DoctorSection
    cluster: Cluster
    data: Data
    seed: Seed
    experiment_name: Name
    run_dir: str | None
