"""The network of a section `model`, with new, pretrained or trained weights."""

import logging
from typing import TYPE_CHECKING, Any, NamedTuple

from pcam_lightning.config.compose import Config
from pcam_lightning.config.construct import construct
from pcam_lightning.weights.source import find_source, takes_weights

if TYPE_CHECKING:
    from torch import nn

    from pcam_lightning.weights.source import Source

log = logging.getLogger(__name__)


class Network(NamedTuple):
    """A network, and its pretrained weights as a manifest records them."""

    model: "nn.Module"
    backbone: dict[str, Any] | None
    """`name`, `file`, `digest`, `license`, `mean`, `std`, and `network`: the section `model` that
    builds the same network without the place of its weights. None for a network without a
    publisher."""


def build_network(model: Config, pretrained: bool = True) -> Network:
    """Return the network of a section `model`.

    Args:
        model: checked section.
        pretrained: load the weights that it names; without them, the network is only good for
            weights that include the backbone.

    Raises:
        InputError: the network or its weights are not on this machine, or do not fit.
    """
    arguments = constructor_arguments(model)
    source = find_source(model)
    if source is None:
        return Network(construct(arguments, "model"), None)
    arguments |= _stated(arguments, source)
    network = construct(arguments, "model")
    network.normalize.set(source.mean, source.std)
    facts: dict[str, Any] = {"name": source.name, "file": None, "digest": None}
    if source.file is not None:
        facts["file"] = str(source.file.absolute())
        if pretrained:
            facts["digest"] = _load(network, source)
    facts |= {"license": source.license, "mean": source.mean, "std": source.std}
    return Network(network, facts | {"network": _description(network, arguments)})


def constructor_arguments(model: Config) -> Config:
    """Return a section `model` without the place of pretrained weights, which no class takes."""
    if not takes_weights(model):
        return model
    return {key: value for key, value in model.items() if key != "weights"}


def _load(network: "nn.Module", source: "Source") -> str:
    """Load pretrained weights and return their digest."""
    from pcam_lightning.weights.license import is_noncommercial
    from pcam_lightning.weights.state import load_pretrained, read_state, weights_digest

    assert source.file is not None
    state = read_state(source.file)
    load_pretrained(network, state, source.file)  # type: ignore[arg-type]
    log.info("backbone: %s, weights %s", source.name, source.file)
    stated = source.license or "not stated"
    if is_noncommercial(source.license):
        log.warning("license of these weights: %s, for non-commercial use only", stated)
    else:
        log.info("license of these weights: %s", stated)
    return weights_digest(state)


def _stated(arguments: Config, source: "Source") -> Config:
    """Return the arguments that a publisher states, with the user's further ones."""
    stated = dict(source.arguments)
    if "arguments" in stated:
        stated["arguments"] = stated["arguments"] | (arguments.get("arguments") or {})
    return stated


def _description(network: "nn.Module", arguments: Config) -> Config:
    """Return the section `model` that builds a network again, from what is now known of it."""
    known = {key: getattr(network, key) for key in ("size", "lora_targets") if key in arguments}
    return arguments | known
