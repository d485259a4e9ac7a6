"""Construction of the trainer, module and data module from a checked config."""

import inspect
import logging
import signal
import subprocess
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, get_type_hints

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import get_object
from lightning import Fabric, Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.utilities.exceptions import SIGTERMException
from pydantic import ConfigDict, TypeAdapter, ValidationError

from pcam_lightning.config.compose import Config
from pcam_lightning.config.construct import construct
from pcam_lightning.config.loggers import build_loggers
from pcam_lightning.config.network import build_network, constructor_arguments
from pcam_lightning.config.precision import choose_precision
from pcam_lightning.config.schema.groups import Trainer as TrainerSchema
from pcam_lightning.data import PCamDataModule
from pcam_lightning.data.source import SOURCE_KEYS
from pcam_lightning.engine.malloc import keep_freed_memory
from pcam_lightning.engine.module import PCamClassifier
from pcam_lightning.engine.rank_environment import check_ranks, rank_environment
from pcam_lightning.errors import InputError, Preempted, one_line
from pcam_lightning.runs.process import is_first_rank
from pcam_lightning.runs.stop_signals import stop_signals
from pcam_lightning.seeds import derive_seed

log = logging.getLogger(__name__)


def check_targets(config: Config) -> None:
    """Raise `InputError` if a `_target_` cannot be imported or does not take one of its arguments.

    The whole config is checked before any object is built.
    """
    model = constructor_arguments(config["model"])
    check_arguments(config | {"data": _without_source(config["data"]), "model": model}, "")
    _check_trainer_types(config["trainer"])


def _check_trainer_types(trainer: Config) -> None:
    """Check arguments of `lightning.Trainer` that the schema does not have, by their annotations.

    Lightning (2.6) passes some of them on unchecked, and torch rejects them during training.
    """
    hints = get_type_hints(Trainer.__init__)
    known = {*TrainerSchema.model_fields, "plugins"}
    for key in sorted(trainer.keys() & hints.keys() - known):
        if isinstance(trainer[key], dict) and "_target_" in trainer[key]:
            continue  # an object
        kind = TypeAdapter(hints[key], config=ConfigDict(arbitrary_types_allowed=True))
        try:
            kind.validate_python(trainer[key], strict=True)
        except ValidationError as error:
            reasons = dict.fromkeys(each["msg"] for each in error.errors())
            raise InputError(f"trainer.{key}={trainer[key]!r}: {', '.join(reasons)}") from None


def check_arguments(config: Any, path: str) -> None:
    """The same for a part of a config; `path` is its place, for the message."""
    if isinstance(config, list):
        for index, item in enumerate(config):
            check_arguments(item, f"{path}.{index}")
    if not isinstance(config, dict):
        return
    for key, value in config.items():
        check_arguments(value, f"{path}.{key}" if path else key)
    if "_target_" not in config:
        return
    target = config["_target_"]
    try:
        parameters = inspect.signature(get_object(target)).parameters
    except Exception as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}._target_={target}: cannot be imported ({reason})") from None
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    for key in config:
        if key not in parameters and not key.startswith("_"):
            raise InputError(
                f"{path}.{key}: no argument of {target}; valid: {', '.join(parameters)}"
            )


def build_trainer(config: Config) -> Trainer:
    """Return the Lightning trainer with its callbacks and loggers.

    Raises:
        InputError: this machine lacks the requested devices, or settings exclude each other.
    """
    _silence_lightning()
    keep_freed_memory()
    callbacks = [
        construct(part, f"callbacks.{key}") for key, part in config["callbacks"].items() if part
    ]
    loggers = build_loggers(config["logger"], config)
    if not loggers:  # Lightning 2.6 raises if a monitor has no logger
        monitors = [each for each in callbacks if isinstance(each, LearningRateMonitor)]
        callbacks = [each for each in callbacks if each not in monitors]
        if monitors and is_first_rank():
            log.warning("no logger: the learning rate is not logged")
    plugins = [
        construct(part, f"trainer.plugins.{i}")
        for i, part in enumerate(config["trainer"].get("plugins") or [])
    ]
    if environment := rank_environment():
        plugins.append(environment)
    parts: Config = {"plugins": plugins, "callbacks": callbacks, "logger": loggers}
    if not (config["trainer"].get("deterministic") or torch.are_deterministic_algorithms_enabled()):
        # To set this again, torch (2.14) imports its compiler: a second before the first step.
        parts["deterministic"] = None
    try:
        trainer = construct(config["trainer"], "trainer", **parts)
    except InputError as error:
        if fault := _device_fault(config["trainer"]):
            raise InputError(fault) from None
        raise error
    check_ranks(trainer)
    _check_sweep(trainer)
    return trainer


def build_fabric(trainer: Config) -> Fabric:
    """Return a device and a precision for inference, from `accelerator` and `precision`.

    Raises:
        InputError: this machine has no such device.
    """
    _silence_lightning()
    keep_freed_memory()
    try:
        return Fabric(
            accelerator=trainer["accelerator"],
            devices=1,
            precision=choose_precision(trainer),  # type: ignore[arg-type]
        )
    except (MisconfigurationException, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"trainer.accelerator={trainer['accelerator']}: {reason}; this machine has {_devices()}"
        ) from None


def build_module(config: Config) -> PCamClassifier:
    """Return the LightningModule, whose weights are initialized from the run's seed."""
    torch.manual_seed(derive_seed(config["seed"], "initialisation"))
    network, backbone = build_network(config["model"])
    return PCamClassifier(
        model=network,
        optimizer=construct(config["optimizer"], "optimizer"),
        scheduler=construct(config["scheduler"], "scheduler"),
        augment=construct(config["augment"], "augment"),
        seed=config["seed"],
        backbone=backbone,
    )


def build_datamodule(config: Config, root: Path) -> PCamDataModule:
    """Return the data module of `config["data"]` for the files in `root`."""
    return construct(_without_source(config["data"]), "data", root=root)


@contextmanager
def ranks_end_together(trainer: Trainer, patience: float = 3.0) -> Iterator[None]:
    """End all ranks together: after the block, each rank waits for the others and disconnects.

    A process that ends while it is connected may abort (torch 2.14). If the block raises, the other
    ranks that Lightning started on this machine are ended: otherwise they would wait for this rank
    in a collective operation, on GPUs for half an hour. Lightning 2.6 would kill this process
    before it reports its error if another rank stopped first.

    Args:
        trainer: trainer used in the block.
        patience: seconds that the other ranks have to save, report an error and stop.

    Raises:
        Preempted: SIGTERM came before or after the training. Lightning would exit with code 0.
    """
    # A rank that stopped alone would leave the others waiting; `PreemptionCheckpoint` makes all
    # ranks stop at the same step.
    signals = stop_signals.deferred() if trainer.world_size > 1 else nullcontext()
    try:
        with signals:
            yield
            trainer.strategy.barrier("end")
            _disconnect()
    except BaseException as error:
        peers: list[subprocess.Popen[bytes]] = getattr(trainer.strategy.launcher, "procs", [])
        ending = peers.copy()
        peers.clear()  # Lightning watches the ranks in this list
        for peer in ending:
            try:
                peer.wait(patience)
            except subprocess.TimeoutExpired:
                peer.kill()
        if isinstance(error, SIGTERMException):
            error = Preempted(signal.SIGTERM)
        if isinstance(error, Preempted):
            _disconnect()
            raise error from None
        raise


def _disconnect() -> None:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _without_source(data: Config) -> Config:
    """Return the arguments of the data module, without those that choose its files."""
    return {key: value for key, value in data.items() if key == "root" or key not in SOURCE_KEYS}


def _check_sweep(trainer: Trainer) -> None:
    """Raise `InputError` if Lightning would repeat the command of a whole sweep for each rank."""
    environment = getattr(trainer.strategy, "cluster_environment", None)
    if trainer.world_size == 1 or environment is None or environment.creates_processes_externally:
        return
    if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        ranks = trainer.world_size
        raise InputError(
            f"trainer.devices: {ranks} ranks in a sweep, which every rank would start again; "
            f"expected one rank, one command per run without --multirun, or ranks of Slurm: "
            f"hydra/launcher=submitit_slurm hydra.launcher.tasks_per_node={ranks}"
        )


def _device_fault(trainer: Config) -> str | None:
    """Return one line if this machine lacks the devices of a trainer's config, else None."""
    chosen = {key: trainer[key] for key in ("accelerator", "devices", "precision")}
    try:
        Trainer(**chosen, logger=False, enable_checkpointing=False, enable_progress_bar=False)
    except (MisconfigurationException, RuntimeError, ValueError) as error:
        given = " ".join(f"trainer.{key}={value}" for key, value in chosen.items())
        return f"{given}: {one_line(error)}; this machine has {_devices()}"
    return None


def _silence_lightning() -> None:
    """Hide Lightning's general hints and the warnings that do not apply here."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    if not is_first_rank():  # the other ranks log the same lines
        logging.getLogger().setLevel(logging.WARNING)
    # Lightning 2.6 uses names that torch deprecates, and advises workers that mapped files do not
    # need.
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*all_gather is deprecated.*")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    # A frozen backbone is in evaluation mode on purpose.
    warnings.filterwarnings("ignore", message=".*in eval mode at the start of training.*")
    # A run without srun on a login node may be intended; sweeps have their launchers.
    warnings.filterwarnings("ignore", message=".*`srun` command is available.*")
    # A resumed run continues in its folder.
    warnings.filterwarnings("ignore", message=".*exists and is not empty.*")


def _devices() -> str:
    gpus = torch.cuda.device_count()
    return f"{gpus} GPU(s)" if gpus else "no GPU: expected trainer.accelerator=cpu or auto"
