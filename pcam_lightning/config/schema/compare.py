"""Schemas of the commands compare and reproduce."""

from pcam_lightning.config.schema.fields import Name, StrictModel
from pcam_lightning.config.schema.slurm import SlurmCommand


class Compare(StrictModel):
    runs: list[str]
    experiment_name: Name
    run_dir: str


class Reproduce(SlurmCommand):
    run: str
    trust: list[str]
    experiment_name: Name
    run_dir: str
