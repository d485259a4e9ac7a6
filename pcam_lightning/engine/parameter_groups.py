"""Optimizers with a learning rate for each group of parameters."""

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn
from torch.optim import Optimizer


def build_optimizer(create: Callable[[Iterable[Any]], Optimizer], network: nn.Module) -> Optimizer:
    """Return an optimizer of the parameters that training changes.

    A network with a method `learning_rates` (see `TimmClassifier`) has a group for each factor of
    the learning rate; the first group has the optimizer's own rate.

    Args:
        create: creates an optimizer from parameters or groups of them.
        network: the network, or a module around it without further parameters.
    """
    rates = getattr(network, "learning_rates", None)
    if rates is None:
        return create([each for each in network.parameters() if each.requires_grad])
    factors = rates()
    optimizer = create([{"params": each} for each in factors.values()])
    for group, factor in zip(optimizer.param_groups, factors, strict=True):
        group["lr"] *= factor
    return optimizer
