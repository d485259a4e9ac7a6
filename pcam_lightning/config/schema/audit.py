"""Schema of the command audit."""

from pydantic import PositiveInt

from pcam_lightning.config.schema.fields import Finding, Name, Section, Seed
from pcam_lightning.config.schema.groups import Data
from pcam_lightning.config.schema.slurm import Submitted


class AuditSection(Section):
    fail_on: list[Finding]
    gallery: PositiveInt


class Audit(Submitted):
    audit: AuditSection
    experiment_name: Name
    run_dir: str
    seed: Seed
    data: Data
