"""Schemas of `cluster` and of commands that can be submitted to Slurm."""

from typing import Literal

from pydantic import PositiveInt

from pcam_lightning.config.schema.fields import Name, Section


class Share(Section):
    partition: str | None
    cpus_per_task: PositiveInt
    mem_gb: PositiveInt | None


class Cluster(Section):
    name: Name
    account: str | None
    gpu: Share
    cpu: Share
    setup: list[str]


class Submitted(Section):
    """A command that is worth a Slurm job."""

    cluster: Cluster
    preflight: Literal["on", "off"]
