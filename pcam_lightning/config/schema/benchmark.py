"""Schema of the command benchmark."""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from pcam_lightning.config.schema.fields import (
    Accelerator,
    Instantiable,
    Name,
    Precision,
    Seed,
    StrictModel,
)
from pcam_lightning.config.schema.groups import (
    Augment,
    Callback,
    Data,
    Model,
    Optimizer,
    Scheduler,
    Trainer,
)
from pcam_lightning.config.schema.slurm import SlurmCommand


class BenchmarkSection(StrictModel):
    models: Annotated[list[Name], Field(min_length=1)] | None
    batch_sizes: Annotated[list[PositiveInt], Field(min_length=1)] | None
    precisions: Annotated[list[Precision | Literal[16, 32, 64]], Field(min_length=1)] | None
    devices: Annotated[list[Accelerator], Field(min_length=1)] | None
    contenders: Annotated[list[str], Field(min_length=1)] | None
    repeats: PositiveInt
    seconds: PositiveFloat
    against: str | None
    run_noise: Annotated[float, Field(ge=0, lt=1)]


class Benchmark(SlurmCommand):
    mode: Literal["train", "forward", "end_to_end", "loader", "startup"]
    benchmark: BenchmarkSection
    compile: bool
    seed: Seed
    experiment_name: Name
    run_dir: str
    data: Data
    model: Model
    augment: Augment
    optimizer: Optimizer
    scheduler: Scheduler
    trainer: Trainer
    callbacks: dict[str, Callback | None]
    logger: dict[str, Instantiable | None]
