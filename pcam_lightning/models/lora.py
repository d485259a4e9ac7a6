"""Low-rank additions to the layers of a frozen network (LoRA, Hu et al. 2021)."""

import re
from collections.abc import Sequence

from torch import nn

from pcam_lightning.errors import InputError


def add_lora(
    backbone: nn.Module, rank: int, targets: str | Sequence[str] | None, called: set[str]
) -> list[str]:
    """Add the trainable matrices of LoRA to layers of a frozen network; return their names.

    A layer outside `called` is not run as a module (its parent uses its weights), so that matrices
    beside it would have no effect.
    """
    from peft import LoraConfig, inject_adapter_in_model

    names = [name for name, layer in backbone.named_modules() if _is_linear(layer)]
    if targets is None:
        names = [name for name in names if name in called]
    elif isinstance(targets, str):
        try:
            names = [name for name in names if re.fullmatch(targets, name)]
        except re.error as error:
            raise InputError(f"lora_targets={targets}: no regular expression ({error})") from None
    else:
        names = [name for name in names if name in targets]
    if not called.issuperset(names) or not names:
        fault = next((name for name in names if name not in called), None)
        raise InputError(
            f"lora_targets={targets}: "
            + (f"{fault} is not run as a module" if fault else "matches no linear layer")
            + "; expected a regular expression such as .*proj, or null for all layers"
        )
    # A list would also match longer names that end with one of these.
    pattern = "|".join(map(re.escape, names))
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=pattern)
    inject_adapter_in_model(config, backbone)
    return names


def _is_linear(layer: nn.Module) -> bool:
    """Return whether a layer is linear in the channels of each place."""
    if isinstance(layer, nn.Conv2d):
        return layer.kernel_size == (1, 1) and layer.groups == 1
    return isinstance(layer, nn.Linear)
