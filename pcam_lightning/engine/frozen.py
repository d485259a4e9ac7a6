"""Checkpoints without the weights that training leaves as they were.

Such a checkpoint holds the digest of the frozen weights in their place: `{"backbone": {"digest":
SHA-256}}`. Loading it needs a network that has these weights already.
"""

from typing import Any

from lightning import Callback, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import Tensor, nn

from pcam_lightning.errors import InputError
from pcam_lightning.models.pretrained import frozen_keys
from pcam_lightning.weights.state import weights_digest

PREFIX = "model."
"""Prefix of the network's names in a checkpoint."""

STATES = ("state_dict", "current_model_state")
"""Keys of weights in a checkpoint: those to use, and those in training where these are averages."""


def frozen_state(network: nn.Module) -> dict[str, Tensor]:
    """Return the part of a network's state dict that training does not change."""
    keys = frozen_keys(network)
    return {key: value for key, value in network.state_dict().items() if key in keys}


def check_averaging(trainer: Trainer) -> None:
    """Check that no callback changes the frozen weights of a network.

    Raises:
        InputError: there is an EMAWeightAveraging, which (Lightning 2.6) rounds weights that stay
            equal. Validation would use a backbone that the checkpoint does not name.
    """
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    if any(isinstance(each, EMAWeightAveraging) for each in callbacks):
        raise InputError(
            "callbacks: EMAWeightAveraging changes frozen weights by rounding; expected "
            "callbacks=averaged, or model.tune=full"
        )


def leave_out_frozen(checkpoint: dict[str, Any], network: nn.Module, digest: str | None) -> None:
    """Replace the frozen weights in a checkpoint by their digest; change nothing if there are none.

    Args:
        checkpoint: with `state_dict`.
        network: the network that the checkpoint is of.
        digest: digest of its frozen weights, if known.
    """
    if not (keys := frozen_keys(network)):
        return
    for name in checkpoint.keys() & STATES:
        state = checkpoint[name].items()
        checkpoint[name] = {k: v for k, v in state if k.removeprefix(PREFIX) not in keys}
    checkpoint["backbone"] = {"digest": digest or weights_digest(frozen_state(network))}


def add_frozen(checkpoint: dict[str, Any], network: nn.Module) -> None:
    """Add a network's own frozen weights to a checkpoint that holds their digest instead."""
    if lacks_frozen(checkpoint):
        own = {f"{PREFIX}{key}": value for key, value in frozen_state(network).items()}
        for name in checkpoint.keys() & STATES:
            checkpoint[name] = checkpoint[name] | own


def lacks_frozen(checkpoint: dict[str, Any]) -> bool:
    """Return whether a checkpoint was written without frozen weights."""
    return isinstance(checkpoint.get("backbone"), dict)


def check_frozen(checkpoint: dict[str, Any], network: nn.Module, where: object) -> None:
    """Check that a checkpoint without frozen weights was trained on those of a network.

    Raises:
        InputError: the network has other weights, or trains all of them.
    """
    if not lacks_frozen(checkpoint):
        return
    expected = checkpoint["backbone"].get("digest")
    own = frozen_state(network)
    if not own:
        raise InputError(
            f"{where}: holds no backbone, since it was frozen; expected model.tune=head or lora, "
            "as in training"
        )
    if (found := weights_digest(own)) != expected:
        raise InputError(
            f"{where}: trained on a backbone with digest {str(expected)[:16]}, and this one has "
            f"{found[:16]}; expected the same model.name, model.weights and model.size"
        )
