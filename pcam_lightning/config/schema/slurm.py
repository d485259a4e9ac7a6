"""Schemas of the group `cluster` and of commands that can be submitted to Slurm."""

from pydantic import PositiveInt

from pcam_lightning.config.schema.fields import Name, StrictModel


class PartitionResources(StrictModel):
    partition: str | None
    cpus_per_task: PositiveInt
    mem_gb: PositiveInt | None


class Cluster(StrictModel):
    name: Name
    account: str | None
    gpu: PartitionResources
    cpu: PartitionResources
    setup: list[str]


class SlurmCommand(StrictModel):
    """A command that can run as a Slurm job."""

    cluster: Cluster
    preflight: bool
