"""Schemas of the config groups: data, model, optimizer, scheduler, augment, trainer."""

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
)

from pcam_lightning.config.schema.fields import (
    Accelerator,
    Amount,
    Finding,
    Fraction,
    Instantiable,
    Precision,
    Probability,
    StrictModel,
)
from pcam_lightning.errors import InputError


def is_scale(value: Any) -> Any:
    if value != "auto":
        from pcam_lightning.data.scale import VALUES, declared_scale  # imports NumPy

        try:
            declared_scale(value)
        except InputError:
            raise ValueError(f"expected one of {VALUES}") from None
    return value


def is_keys(value: Any) -> Any:
    if value is not None:
        from pcam_lightning.data.files import KEYS, declared_keys  # imports NumPy

        try:
            declared_keys(value)
        except InputError:
            raise ValueError(f"expected {KEYS}") from None
    return value


class Demo(StrictModel):
    parent: str
    seed: NonNegativeInt
    train: Annotated[int, Field(ge=16)]
    valid: Annotated[int, Field(ge=16)]
    test: Annotated[int, Field(ge=16)]
    dtype: Literal["uint8", "float32"]
    damage: bool


class Data(Instantiable):
    model_config = ConfigDict(extra="forbid", strict=True)

    root: str | None
    default_root: str | None
    on_missing: Literal["demo", "download", "error"]
    batch_size: PositiveInt
    num_workers: NonNegativeInt
    sampler: Literal["balanced", "shuffle", "fixed"]
    filter: Literal["none", "blank"]
    exclude: str | None
    exclude_kinds: list[Finding]
    normalize: Literal["auto", "symmetric", "train"]
    keys: Annotated[Any, AfterValidator(is_keys)] = None
    scale: Annotated[Any, AfterValidator(is_scale)] = "auto"
    cache: bool
    cache_dir: str | None
    device_resident: Literal["auto"] | bool
    seed: NonNegativeInt
    demo: Demo


class Model(Instantiable):
    hidden: list[PositiveInt] | None = None
    channels: Annotated[list[PositiveInt], Field(min_length=1)] | None = None
    dropout: Probability = 0.0
    center_max: bool = True
    name: Annotated[str, Field(min_length=1)] | None = None
    weights: str | None = None
    size: Literal["auto", "native"] | Annotated[int, Field(ge=96, le=2048)] = "auto"
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    tune: Literal["full", "head", "lora"] = "full"
    backbone_rate: Fraction = 0.1
    layer_decay: Fraction = 1.0
    frozen_layers: NonNegativeInt = 0
    lora_rank: PositiveInt = 8


class Optimizer(Instantiable):
    lr: PositiveFloat
    weight_decay: NonNegativeFloat = 0.0
    momentum: Probability = 0.0
    betas: Annotated[list[Probability], Field(min_length=2, max_length=2)] | None = None
    adam_rate: NonNegativeFloat = 0.0
    fused: bool | None = None


class Scheduler(Instantiable):
    warmup_epochs: NonNegativeFloat = 0.0
    every_epochs: PositiveInt = 1
    gamma: Fraction = 0.1
    factor: Probability = 0.1
    patience: NonNegativeInt = 1
    final: Annotated[float, Field(ge=0, le=1)] = 0.0


class Augment(Instantiable):
    strength: NonNegativeFloat = 0.0


class Callback(Instantiable):
    spike_factor: Annotated[float, Field(gt=1)] = 3.0
    window: Annotated[int, Field(ge=20)] = 100


def _is_positive(value: str) -> str:
    if not value.strip("0:"):
        raise ValueError("expected a duration above 0")
    return value


Duration = Annotated[str, Field(pattern=r"^\d\d:\d\d:\d\d:\d\d$"), AfterValidator(_is_positive)]
"""A duration `DD:HH:MM:SS`: days, hours, minutes, seconds."""


class Trainer(Instantiable):
    max_epochs: PositiveInt | Literal[-1]
    max_steps: PositiveInt | Literal[-1] = -1
    max_time: Duration | dict[str, NonNegativeFloat] | None = None
    val_check_interval: Amount | Duration | None = None
    accelerator: Accelerator
    devices: PositiveInt | Literal["auto"] | Annotated[list[NonNegativeInt], Field(min_length=1)]
    num_nodes: PositiveInt
    precision: Precision | Literal[16, 32, 64]
    gradient_clip_val: PositiveFloat | None
    accumulate_grad_batches: PositiveInt
    log_every_n_steps: PositiveInt
    check_val_every_n_epoch: PositiveInt | None
    limit_train_batches: Amount
    limit_val_batches: Amount
    limit_test_batches: Amount
    deterministic: bool | Literal["warn"]
