"""Construction of a network from its description in a file, which may come from a stranger."""

import re
from collections.abc import Mapping
from typing import Any

from torch import nn

from pcam_lightning import models
from pcam_lightning.errors import InputError, one_line

NETWORKS = ("CNN", "MLP", "P4MCNN", "TimmClassifier", "densenet121", "resnet18", "resnet50")
"""Names of the networks in `pcam_lightning.models`."""
PREFIX = "pcam_lightning.models."
WORD = re.compile(r"[\w.]*")


def build_network(description: Mapping[str, Any], where: str) -> nn.Module:
    """Return a network of this package with new weights.

    Args:
        description: `_target_`, such as "pcam_lightning.models.CNN", and arguments: numbers, lists
            of them, words or None.
        where: file and key of the description; starts the text of an error.

    Raises:
        InputError: the network is not of this package, or does not take these arguments.
    """
    arguments = dict(description)
    target = str(arguments.pop("_target_", None))
    arguments.pop("weights", None)  # the place of pretrained weights
    name = target.removeprefix(PREFIX)
    if not target.startswith(PREFIX) or name not in NETWORKS:
        raise InputError(
            f"{where}._target_={one_line(target)}: no network of this package, expected one of "
            f"{', '.join(PREFIX + each for each in NETWORKS)}, or the network itself as model"
        )
    takes_words = name == "TimmClassifier"
    for key, value in arguments.items():
        if not _is_plain(value) or (isinstance(value, str) and not takes_words):
            raise InputError(
                f"{where}.{one_line(key)}: expected numbers or words, got {one_line(value)}"
            )
    try:
        return getattr(models, name)(**arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{where}: {one_line(error)}") from None


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(_is_plain(each) for each in value.values())
    values = value if isinstance(value, list) else [value]
    return all(
        each is None
        or isinstance(each, int | float)
        or (isinstance(each, str) and WORD.fullmatch(each) is not None)
        for each in values
    )
