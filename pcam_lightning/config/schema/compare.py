"""Schemas of the commands compare and reproduce."""

from pcam_lightning.config.schema.fields import Name, Section
from pcam_lightning.config.schema.slurm import Submitted


class Compare(Section):
    runs: list[str]
    experiment_name: Name
    run_dir: str


class Reproduce(Submitted):
    run: str
    trust: list[str]
    experiment_name: Name
    run_dir: str
