"""Schema of the command audit."""

from pydantic import PositiveInt

from pcam_lightning.config.schema.fields import Finding, Name, Seed, StrictModel
from pcam_lightning.config.schema.groups import Data
from pcam_lightning.config.schema.slurm import SlurmCommand


class AuditSection(StrictModel):
    fail_on: list[Finding]
    gallery: PositiveInt
    near_duplicates: bool


class Audit(SlurmCommand):
    audit: AuditSection
    experiment_name: Name
    run_dir: str
    seed: Seed
    data: Data
