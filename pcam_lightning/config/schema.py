"""What a config may hold: types, ranges and choices, checked before any work and without torch.

A section whose keys are all ours forbids unknown ones. A `Part` names a class or function in
`_target_` and hands it every other key: here only the keys whose range is known are checked, so
that a new optimizer or network is one new YAML file; whether the target takes the rest is checked
by `assembly.check_arguments`.
"""

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from pcam_lightning.data.findings import KINDS
from pcam_lightning.errors import InputError

Probability = Annotated[float, Field(ge=0, lt=1)]
Fraction = Annotated[float, Field(gt=0, le=1)]
Amount = PositiveInt | Annotated[float, Field(gt=0, le=1)]
"""Lightning's limit of batches: a count, or a share of the epoch."""


def _is_kind(value: str) -> str:
    if value not in KINDS:
        raise ValueError(f"expected one of {', '.join(KINDS)}")
    return value


Finding = Annotated[str, AfterValidator(_is_kind)]
"""A kind of finding that an audit knows."""


Seed = Annotated[int, Field(ge=0, lt=2**32)]
Name = Annotated[str, Field(pattern=r"^[\w.-]+$")]


def _is_scale(value: Any) -> Any:
    if value != "auto":
        from pcam_lightning.data.scale import VALUES, declared_scale  # NumPy, as in _is_rule

        try:
            declared_scale(value)
        except InputError:
            raise ValueError(f"expected one of {VALUES}") from None
    return value


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Part(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)

    target: str = Field(alias="_target_")


class Demo(Section):
    parent: str
    seed: NonNegativeInt
    train: Annotated[int, Field(ge=16)]
    valid: Annotated[int, Field(ge=16)]
    test: Annotated[int, Field(ge=16)]
    dtype: Literal["uint8", "float32"]
    damage: bool


class Data(Part):
    model_config = ConfigDict(extra="forbid", strict=True)

    root: str | None
    default_root: str | None
    on_missing: Literal["demo", "download", "error"]
    batch_size: PositiveInt
    num_workers: NonNegativeInt
    sampler: Literal["weighted", "shuffle", "fixed"]
    filter: Literal["none", "blank"]
    exclude: str | None
    exclude_kinds: list[Finding]
    normalize: Literal["half", "train"]
    scale: Annotated[Any, AfterValidator(_is_scale)] = "auto"
    cache: Literal["auto", "off"]
    cache_dir: str | None
    device_resident: Literal["auto"] | bool
    seed: NonNegativeInt
    demo: Demo


class Model(Part):
    hidden: list[PositiveInt] | None = None
    channels: Annotated[list[PositiveInt], Field(min_length=1)] | None = None
    dropout: Probability = 0.0


class Optimizer(Part):
    lr: PositiveFloat
    weight_decay: NonNegativeFloat = 0.0
    momentum: Probability = 0.0
    betas: Annotated[list[Probability], Field(min_length=2, max_length=2)] | None = None
    fused: bool | None = None


class Scheduler(Part):
    warmup_epochs: NonNegativeFloat = 0.0
    every_epochs: PositiveInt = 1
    gamma: Fraction = 0.1
    factor: Probability = 0.1
    patience: NonNegativeInt = 1
    final: Annotated[float, Field(ge=0, le=1)] = 0.0


class Augment(Part):
    strength: NonNegativeFloat = 0.0


MONITORED = {
    "val/auroc": "max",
    "val/average_precision": "max",
    "val/accuracy": "max",
    "val/f2": "max",
    "val/loss": "min",
    "train/loss": "min",
}
"""Metrics that are known at the end of every validation, and which way is better."""


_LIBRARIES = ("lightning.", "pcam_lightning.")


class Callback(Part):
    spike_factor: Annotated[float, Field(gt=1)] = 3.0
    window: Annotated[int, Field(ge=20)] = 100


Precision = Literal[
    "auto",
    "32",
    "32-true",
    "64",
    "64-true",
    "bf16",
    "bf16-mixed",
    "bf16-true",
    "16",
    "16-mixed",
    "16-true",
]


def _is_some_time(value: str) -> str:
    if not value.strip("0:"):
        raise ValueError("expected more than no time")
    return value


Accelerator = Literal["auto", "cpu", "gpu", "cuda", "mps"]


Duration = Annotated[str, Field(pattern=r"^\d\d:\d\d:\d\d:\d\d$"), AfterValidator(_is_some_time)]
"""Days, hours, minutes and seconds."""


class Trainer(Part):
    max_epochs: PositiveInt
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
    check_val_every_n_epoch: PositiveInt
    limit_train_batches: Amount
    limit_val_batches: Amount
    limit_test_batches: Amount
    deterministic: bool | Literal["warn"]


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


class Train(Submitted):
    compile: bool
    seed: Seed
    experiment_name: Name
    run_dir: str
    resume: Literal["auto", False]
    ckpt_path: str | None
    data: Data
    model: Model
    augment: Augment
    optimizer: Optimizer
    scheduler: Scheduler
    trainer: Trainer
    callbacks: dict[str, Callback | None]
    logger: dict[str, Part | None]

    @model_validator(mode="after")
    def _fused_optimizers_unscale_gradients_themselves(self) -> "Train":
        scaled = self.trainer.precision in ("16", "16-mixed", 16)
        if scaled and self.trainer.gradient_clip_val is not None and self.optimizer.fused:
            raise ValueError(
                "trainer.precision=16-mixed cannot clip the gradients of a fused optimizer; "
                "expected optimizer.fused=false, trainer.gradient_clip_val=null or "
                "trainer.precision=bf16-mixed"
            )
        return self

    @model_validator(mode="after")
    def _monitored_metrics_exist(self) -> "Train":
        callbacks = {name: part for name, part in self.callbacks.items() if part is not None}
        # A callback of the user may log anything.
        known = all(part.target.startswith(_LIBRARIES) for part in callbacks.values())
        for name, part in callbacks.items():
            kind, given = part.target.rpartition(".")[2], part.model_extra or {}
            if kind not in ("BestCheckpoint", "ModelCheckpoint", "EarlyStopping"):
                continue
            key, monitor = f"callbacks.{name}", str(given.get("monitor"))
            mode = given.get("mode", "min")
            needed = monitor != "None" or kind == "EarlyStopping"
            if needed and known and monitor not in MONITORED:
                raise ValueError(
                    f"{key}.monitor={monitor}: no such metric, expected one of "
                    f"{', '.join(MONITORED)}"
                )
            if monitor in MONITORED and mode != MONITORED[monitor]:
                raise ValueError(
                    f"{key}.mode={mode}: takes the worst {monitor} for the best, expected "
                    f"{key}.mode={MONITORED[monitor]}"
                )
            kept, filename = given.get("save_top_k", 1), str(given.get("filename") or "{epoch}")
            if kept not in (0, 1) and "{" not in filename:
                raise ValueError(
                    f"{key}.save_top_k={kept}: all would be written to {filename}.ckpt, expected "
                    f"{key}.save_top_k=1, or {key}.filename='{filename}-{{epoch}}'"
                )
        return self


class BenchmarkSection(Section):
    models: Annotated[list[Name], Field(min_length=1)] | None
    batch_sizes: Annotated[list[PositiveInt], Field(min_length=1)] | None
    precisions: Annotated[list[Precision | Literal[16, 32, 64]], Field(min_length=1)] | None
    devices: Annotated[list[Accelerator], Field(min_length=1)] | None
    contenders: Annotated[list[str], Field(min_length=1)] | None
    repeats: PositiveInt
    seconds: PositiveFloat
    against: str | None


class Benchmark(Submitted):
    mode: Literal["train", "forward", "end_to_end", "loader", "conversion", "callbacks", "startup"]
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
    logger: dict[str, Part | None]


class AuditSection(Section):
    fail_on: list[Finding]
    gallery: PositiveInt


class Audit(Submitted):
    audit: AuditSection
    experiment_name: Name
    run_dir: str
    seed: Seed
    data: Data


def _is_rule(value: str | float) -> str | float:
    from pcam_lightning.metrics.thresholds import (  # NumPy, which others have no need of
        RULES,
        parse_rule,
    )

    try:
        parse_rule(value)
    except InputError:
        raise ValueError(f"expected one of {RULES}") from None
    return value


class CustomSlice(Section):
    column: str
    at_least: float | None = Field(None, alias="from")
    below: float | None = None
    among: Annotated[list[str | int | float | bool], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _bounded(self) -> "CustomSlice":
        if self.at_least is None and self.below is None and self.among is None:
            raise ValueError("expected some of from (>=), below (<) and among (a list)")
        return self


class EvaluateSection(Section):
    threshold: Annotated[str | float, AfterValidator(_is_rule)]
    beta: PositiveFloat
    cost_ratio: PositiveFloat
    tta: Literal["none", "d4"]
    slices: dict[Name, CustomSlice] | None
    hospitals: str | None
    gallery: PositiveInt
    attribution: Literal["none", "grad_cam", "occlusion"]
    resamples: Annotated[int, Field(ge=100)]


class Evaluate(Submitted):
    run: str | None
    checkpoint: str | None
    predictions: str | None
    split: Literal["val", "test"]
    evaluate: EvaluateSection
    seed: Seed
    experiment_name: Name
    run_dir: str
    data: Data
    model: Model
    trainer: Trainer

    @model_validator(mode="after")
    def _one_thing_on_one_device(self) -> "Evaluate":
        if [self.run, self.checkpoint, self.predictions].count(None) != 2:
            raise ValueError("expected exactly one of run=, checkpoint= and predictions=")
        devices = self.trainer.devices
        one = devices in (1, "auto") or (isinstance(devices, list) and len(devices) == 1)
        if not one or self.trainer.num_nodes != 1:
            raise ValueError("evaluate works on one device: expected trainer.devices=1")
        if self.predictions is not None:
            for key in ("tta", "attribution"):
                if getattr(self.evaluate, key) != "none":
                    raise ValueError(
                        f"evaluate.{key}={getattr(self.evaluate, key)}: needs the model, expected "
                        "run= or checkpoint= in the place of predictions="
                    )
        return self


class Download(Section):
    root: str
    splits: Annotated[list[Literal["train", "valid", "test"]], Field(min_length=1)]
    check: bool
    url: Annotated[str, Field(pattern=r"^https?://")]
    experiment_name: Name
    run_dir: str


class Compare(Section):
    runs: list[str]
    experiment_name: Name
    run_dir: str


class Reproduce(Submitted):
    run: str
    trust: list[str]
    experiment_name: Name
    run_dir: str


def _is_metric(value: str) -> str:
    from pcam_lightning.metrics.metrics import METRICS  # NumPy, which others have no need of

    if value not in METRICS:
        raise ValueError(f"expected one of {', '.join(METRICS)}")
    return value


class Collect(Section):
    sweep: str | list[str]
    metric: Annotated[str, AfterValidator(_is_metric)]
    watch: bool
    every_seconds: PositiveFloat
    experiment_name: Name
    run_dir: str


class Search(Section):
    trials: PositiveInt
    parallel: PositiveInt
    metric: Literal["val/auroc", "val/average_precision", "val/accuracy", "val/f2", "val/loss"]
    startup_trials: NonNegativeInt
    pruner: Literal["median"] | None
    warmup_epochs: NonNegativeInt
    seed: Seed
    study: Name
    storage: str | None
    params: dict[str, Any] | None


ROOTS: dict[str, type[Section]] = {
    "train": Train,
    "benchmark": Benchmark,
    "audit": Audit,
    "download": Download,
    "compare": Compare,
    "reproduce": Reproduce,
    "collect": Collect,
    "evaluate": Evaluate,
}
"""The schema of each command's root config."""


def check(name: str, config: dict[str, Any]) -> None:
    """Raise `InputError` for the first value that the schema of command `name` refuses.

    In lists of words, the word nan is put back where Hydra has made a number of it.
    """
    _restore_nan(config)
    _check(ROOTS[name], config, "")


def check_search(config: dict[str, Any]) -> None:
    """Raise `InputError` for the first value of `hydra.sweeper` that a search refuses."""
    _check(Search, config, "hydra.sweeper.")


def _check(section: type[Section], config: dict[str, Any], prefix: str) -> None:
    try:
        section.model_validate(config)
    except ValidationError as error:
        raise InputError(prefix + _describe(error, config)) from None


def _restore_nan(config: Any) -> None:
    items = enumerate(config) if isinstance(config, list) else config.items()
    for key, value in list(items):
        if isinstance(value, list | dict):
            _restore_nan(value)
        elif isinstance(config, list) and value != value:
            config[key] = "nan"


def _describe(error: ValidationError, config: dict[str, Any]) -> str:
    # A union reports each of its members; they share the key, so name it once.
    first = error.errors()[0]
    path = _config_path(first["loc"], config)
    same = [e for e in error.errors() if _config_path(e["loc"], config) == path]
    expected = " or ".join(dict.fromkeys(_expectation(e["type"], e["msg"]) for e in same))
    expected = expected.replace(" or expected ", " or ")
    key = ".".join(path)
    if not key:
        return expected
    if first["type"] == "missing":
        return f"{key}: missing; {expected}"
    if first["type"] == "extra_forbidden":
        return f"{key}: no such key"
    return f"{key}={first['input']!r}: {expected}"


def _config_path(location: tuple[int | str, ...], config: Any) -> tuple[str, ...]:
    """The part of an error's location that is a path in the config, without union members."""
    path: list[str] = []
    for step in location:
        if isinstance(config, dict) and (step in config or not path or step in location[-1:]):
            path.append(str(step))
            config = config.get(step)
        elif isinstance(config, list) and isinstance(step, int):
            path.append(str(step))
            config = config[step] if step < len(config) else None
    return tuple(path)


def _expectation(kind: str, message: str) -> str:
    if kind == "value_error":
        return message.removeprefix("Value error, ")
    expected = message.removeprefix("Input should be ").removeprefix("a valid ")
    return f"expected {expected}" if expected != message else message
