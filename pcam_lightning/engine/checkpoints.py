"""Checkpoint files: atomic writes, and checks before a run continues from one."""

import io
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from torch import Tensor

from pcam_lightning.engine.frozen import (
    PREFIX,
    add_frozen,
    check_frozen,
    lacks_frozen,
    leave_out_frozen,
)
from pcam_lightning.engine.module import PCamClassifier
from pcam_lightning.errors import InputError, one_line
from pcam_lightning.files import atomic_write
from pcam_lightning.models.pretrained import frozen_keys
from pcam_lightning.weights.state import difference
from pcam_lightning.weights.structure import read_structure

FORMAT_VERSION = 1
"""Version of a checkpoint's content beside Lightning's own; checkpoints of 0.1.0 have none."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoint writer that keeps the previous checkpoint after a kill or on a full disk.

    Lightning's own (2.6) writes to the system's temporary folder and moves the file. If that folder
    is on another disk, as on most clusters, the move is a copy, and a kill leaves a partial file.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write the checkpoint; raise InputError if the disk is full or the folder read-only."""
        buffer = io.BytesIO()
        torch.save(checkpoint | {"format_version": FORMAT_VERSION}, buffer)
        try:
            atomic_write(Path(path), buffer.getvalue())
        except OSError as error:
            raise InputError(
                f"{path}: a checkpoint of {buffer.tell() / 1e6:.1f} MB cannot be written "
                f"({error.strerror or error}); the previous one survives, expected free disk space"
            ) from None


def check_checkpoint(path: str | None, module: PCamClassifier, max_steps: int = -1) -> None:
    """Check that a run of this module, with this limit of steps, can continue from a checkpoint.

    Reads the whole file, runs no code from it and loads nothing into the module. Accepts None, for
    a run that starts without a checkpoint.

    Raises:
        InputError: the file is missing or damaged, holds more than tensors and plain containers,
            has no optimizer states, belongs to another network, optimizer or scheduler, or was
            saved after a limit had ended an epoch before its last batch.
    """
    if path is None:
        return
    if not Path(path).is_file():
        raise InputError(f"ckpt_path={path}: no such file, expected a checkpoint such as last.ckpt")
    checkpoint = _read_of(path, module)
    if not checkpoint.get("optimizer_states"):
        raise InputError(
            f"{path}: holds weights but no optimizer states, so that no run can continue from it; "
            "expected a checkpoint such as last.ckpt"
        )
    if not _is_optimizer_state(checkpoint["optimizer_states"]):
        raise InputError(f"{path}: damaged, its optimizer_states belong to no optimizer")
    if fault := _other_optimizer(checkpoint["optimizer_states"][0], module):
        raise InputError(f"{path}: of another optimizer: {fault}")
    if fault := _other_scheduler(checkpoint.get("lr_schedulers") or [], module):
        raise InputError(f"{path}: of another scheduler: {fault}")
    step = checkpoint.get("global_step", 0)
    is_done = 0 <= max_steps <= step or _is_early_stopped(checkpoint)
    if _ends_inside_epoch(checkpoint) and not is_done:
        # Lightning (2.6) would count the rest of that epoch as trained.
        raise InputError(
            f"{path}: its run ended at step {step}, inside an epoch, as trainer.max_steps or "
            "trainer.max_time asked; expected a checkpoint from which an epoch can continue"
        )


def _ends_inside_epoch(checkpoint: Mapping[str, Any]) -> bool:
    """Return whether the last epoch has ended, but not with its last batch."""
    try:
        loop = checkpoint["loops"]["fit_loop"]
        epoch = loop["epoch_progress"]["current"]
        ended = 0 < epoch["ready"] == epoch["processed"]
        return bool(ended and not loop["epoch_loop.batch_progress"]["is_last_batch"])
    except (KeyError, TypeError):
        return False


def _is_early_stopped(checkpoint: Mapping[str, Any]) -> bool:
    """Return whether a callback `EarlyStopping` has ended the run."""
    try:
        states = checkpoint["callbacks"].values()
        reasons = [each["stopping_reason"] for each in states if "stopping_reason" in each]
        return any(reason != EarlyStoppingReason.NOT_STOPPED.value for reason in reasons)
    except (AttributeError, KeyError, TypeError):
        return False


def load_weights(path: Path, module: PCamClassifier) -> None:
    """Load a checkpoint's weights, including the normalization, into a module.

    Reads the whole file and runs no code from it.

    Raises:
        InputError: the file is missing or damaged, holds more than tensors and plain containers, or
            belongs to another network.
    """
    if not path.is_file():
        raise InputError(f"checkpoint={path}: no such file, expected one such as best.ckpt")
    _read_of(str(path), module)
    try:
        checkpoint = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:
        raise _damaged(path, error) from None
    add_frozen(checkpoint, module.model)
    module.load_state_dict(checkpoint["state_dict"])


def write_weights(path: Path, module: PCamClassifier) -> None:
    """Write a module's weights as a checkpoint, which `load_weights` reads.

    Frozen weights are left out, as in the checkpoints of a run.

    Raises:
        InputError: the disk is full, or the folder read-only.
    """
    checkpoint: dict[str, Any] = {"state_dict": module.state_dict()}
    leave_out_frozen(checkpoint, module.model, None)
    AtomicCheckpointIO().save_checkpoint(checkpoint, path)


def load_safetensors(content: bytes, network: torch.nn.Module, where: str) -> None:
    """Load weights in the safetensors format, which holds no code, into a network.

    Raises:
        InputError: the content is damaged or belongs to another network; `where` starts its text.
    """
    try:
        state = safetensors.torch.load(content)
    except Exception as error:  # SafetensorError derives from Exception alone
        raise _damaged(where, error) from None
    if fault := difference(state, network.state_dict(), type(network).__name__):
        raise InputError(f"{where}: of another network: {fault}")
    network.load_state_dict(state)


def _read_of(path: str, module: PCamClassifier) -> dict[str, Any]:
    """Return the content of a checkpoint of this module, with tensors without values."""
    checkpoint = _read_sound(path)
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        found = ", ".join(map(str, checkpoint)) if isinstance(checkpoint, dict) else "no dict"
        raise InputError(f"{path}: no checkpoint of Lightning, found {found[:200] or 'nothing'}")
    version = checkpoint.get("format_version", 0)
    if not isinstance(version, int) or not 0 <= version <= FORMAT_VERSION:
        raise InputError(
            f"{path}: format version {one_line(version, 40)}, expected at most {FORMAT_VERSION}; "
            "a later version of pcam_lightning reads it"
        )
    state = checkpoint["state_dict"]
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
    ):
        raise InputError(f"{path}: damaged, its state_dict holds more than named tensors")
    check_frozen(checkpoint, module.model, path)
    expected = module.state_dict()
    if lacks_frozen(checkpoint):
        frozen = {f"{PREFIX}{key}" for key in frozen_keys(module.model)}
        expected = {key: value for key, value in expected.items() if key not in frozen}
    if fault := difference(state, expected, type(module.model).__name__):
        raise InputError(f"{path}: of another network: {fault}")
    return checkpoint


def _read_sound(path: str) -> Any:
    """Return the content of an undamaged checkpoint, with tensors without values."""
    try:
        return read_structure(Path(path))
    except InputError:
        raise
    except Exception as error:
        raise _damaged(path, error) from None


def _damaged(path: object, error: Exception) -> InputError:
    reason = one_line(error, 200)
    return InputError(f"{path}: cut short, damaged or no checkpoint ({reason})")


def _is_optimizer_state(states: Any) -> bool:
    """Return whether every item has the structure of an optimizer's `state_dict`."""
    return isinstance(states, list) and all(
        isinstance(each, dict)
        and isinstance(kept := each.get("state"), dict)
        and all(isinstance(values, dict) for values in kept.values())
        and isinstance(groups := each.get("param_groups"), list)
        and all(isinstance(group, dict) and "params" in group for group in groups)
        and groups
        for each in states
    )


def _other_optimizer(state: Mapping[str, Any], module: PCamClassifier) -> str | None:
    """Return how an optimizer's state differs in kind from the module's optimizer, or None."""
    if module.optimizer is None:
        return None
    # A step shows the state that an optimizer keeps; Muon keeps another one for matrices.
    parameters = [torch.nn.Parameter(torch.zeros(shape)) for shape in ((1,), (2, 2))]
    for each in parameters:
        each.grad = torch.zeros_like(each)
    optimizer = module.optimizer(parameters)
    optimizer.step(lambda: 0.0)
    name = type(optimizer).__name__
    kept, found = (
        list(dict.fromkeys(chain.from_iterable(values)))
        for values in (optimizer.state.values(), state["state"].values())
    )
    if set(found) != set(kept):
        listed = [", ".join(map(str, each)) or "nothing" for each in (found, kept)]
        return f"it kept {listed[0]} for each parameter, expected {listed[1]} as {name} does"
    # The only difference between the states of Adam and AdamW.
    key = "decoupled_weight_decay"
    theirs, ours = (each["param_groups"][0].get(key) for each in (state, optimizer.state_dict()))
    if None not in (theirs, ours) and theirs != ours:
        return f"{key} was {theirs}, expected {ours} as in {name}"
    return None


def _other_scheduler(states: Sequence[Mapping[str, Any]], module: PCamClassifier) -> str | None:
    """Return how the first scheduler's state differs in kind from the module's, or None."""
    if module.optimizer is None or module.scheduler is None or not states:
        return None
    optimizer = module.optimizer([torch.nn.Parameter(torch.zeros(1))])
    scheduler = module.scheduler(optimizer, 2, 1)[0]["scheduler"]
    missing = sorted(scheduler.state_dict().keys() - states[0].keys())
    more = sorted(states[0].keys() - scheduler.state_dict().keys())
    if not missing and not more:
        return None
    name = type(scheduler).__name__
    found = f"it kept {more[0]}" if more else f"it kept no {missing[0]}"
    return f"{found}, expected the state of {name}"
