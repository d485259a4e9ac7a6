"""Depthwise convolutions that train on a CPU in float32."""

import types
from typing import Any

import torch
from torch import Tensor, nn


def train_depthwise_in_float32(network: nn.Module) -> None:
    """Let depthwise convolutions leave mixed precision on a CPU where gradients are computed.

    There their gradients take longer in bfloat16 than in float32, while the other layers are faster
    in bfloat16. The output has the dtype of the input.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d) and layer.groups > 1:
            # A method, not a function around the layer, so that a copy of the network calls itself.
            layer.forward = types.MethodType(_forward, layer)


def _forward(layer: Any, maps: Tensor) -> Tensor:
    compute = type(layer).forward
    # Frozen layers before the first trained one have no gradient either.
    trains = torch.is_grad_enabled() and (maps.requires_grad or layer.weight.requires_grad)
    if not (maps.is_cpu and trains and torch.is_autocast_enabled("cpu")):
        return compute(layer, maps)
    with torch.autocast("cpu", enabled=False):
        return compute(layer, maps.float()).to(maps.dtype)
