"""Pretrained weights in a network: which of them training changes, and copying them."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


def copy_state(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Copy the values of tensors to the tensors of a network that have the same names.

    Args:
        state: may hold further tensors.
        own: share the memory of the network's weights and buffers.

    Raises:
        ValueError: a name is missing, or a shape differs; nothing was copied.
    """
    for key, mine in own.items():
        if key not in state:
            raise ValueError(f"no {key}")
        if mine.shape != state[key].shape:
            raise ValueError(f"{key} is {list(state[key].shape)}, expected {list(mine.shape)}")
    with torch.no_grad():
        for key, mine in own.items():
            mine.copy_(state[key])


def frozen_keys(network: nn.Module) -> frozenset[str]:
    """Return the names in a network's state dict of what training leaves as it was."""
    return getattr(network, "frozen_keys", frozenset())
