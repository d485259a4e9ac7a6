"""Architectures of timm, created by name without weights."""

import re
from collections.abc import Mapping
from typing import Any

from torch import nn

from pcam_lightning.errors import InputError, one_line

LAYERS = ("Mlp", "GluMlp", "SwiGLU", "SwiGLUPacked")
"""Classes of `timm.layers` that `arguments` may name as `mlp_layer`."""
RESERVED = {
    "cache_dir",
    "checkpoint_path",
    "exportable",
    "features_only",
    "in_chans",
    "no_jit",
    "num_classes",
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "pretrained_strict",
    "scriptable",
}
"""Arguments of `timm.create_model` that read files or change what a network takes and returns."""
WORD = re.compile(r"\w*")
FAULTS = (
    ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError,
    ValueError,
)  # fmt: skip
"""Exceptions by which networks of timm reject their arguments or a size."""


def create_backbone(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Return a network of timm without its classifier.

    Args:
        name: an architecture of timm.
        arguments: further arguments of the architecture: numbers, words, or lists of numbers.

    Raises:
        InputError: timm has no such architecture, or the arguments do not fit it.
    """
    import timm
    import timm.layers

    if not timm.is_model(name):
        raise InputError(f"name={one_line(name, 80)}: timm has no such architecture")
    given = dict(arguments)
    for key, value in given.items():
        values = value if isinstance(value, list | tuple) else [value]
        plain = all(isinstance(each, int | float | None) or _is_word(each) for each in values)
        if key in RESERVED or not plain:
            raise InputError(
                f"arguments.{key}={value!r}: expected an argument of {name}: a number, a word or "
                f"a list of numbers, not of {', '.join(sorted(RESERVED))}"
            )
    if isinstance(layer := given.get("mlp_layer"), str):
        if layer not in LAYERS:
            raise InputError(f"arguments.mlp_layer={layer}: expected one of {', '.join(LAYERS)}")
        given["mlp_layer"] = getattr(timm.layers, layer)
    try:
        return timm.create_model(name, pretrained=False, num_classes=0, **given)
    except FAULTS as error:
        raise InputError(
            f"{name} does not take arguments={dict(arguments)} ({one_line(error)})"
        ) from None


def input_size(backbone: nn.Module) -> int | None:
    """Return the input's side that a network was built for; None if any side fits."""
    if not hasattr(backbone, "set_input_size"):
        return None
    size = getattr(getattr(backbone, "patch_embed", None), "img_size", None)
    return None if size is None else int(size[0])


def _is_word(value: Any) -> bool:
    return isinstance(value, str) and WORD.fullmatch(value) is not None
