"""The optimizer Muon for convolutional networks."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

FIRST_CHANNELS = 3
"""Channels of an image: filters with so many inputs belong to the first layer."""
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Factors a, b, c of the polynomial a x + b x^3 + c x^5, which moves singular values towards 1."""


class Muon(Optimizer):
    """Muon (Jordan et al. 2024): momentum whose singular values are all set to about 1.

    A step changes the filters of a layer, as a matrix with a row for each filter, equally in all
    directions, not mostly in the few of the largest gradients. With matrices, it computes the same
    as `torch.optim.Muon`, which accepts only matrices. All other parameters (normalization, biases,
    the first and the last layer) are changed as by `torch.optim.AdamW`.

    Args:
        params: parameters, or groups of them.
        lr: learning rate of the filters.
        momentum: decay of the mean gradient, in [0, 1); Nesterov's form.
        weight_decay: decoupled from the gradient; for filters only.
        adam_rate: learning rate of the other parameters relative to `lr`.
        betas: decays of the mean and the mean square of their gradient, each in [0, 1).
        iterations: number of polynomials applied to the singular values.

    Raises:
        ValueError: a value is out of its range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.05,
        momentum: float = 0.9,
        weight_decay: float = 0.05,
        adam_rate: float = 0.06,
        betas: Sequence[float] = (0.9, 0.999),
        iterations: int = 4,
    ) -> None:
        shares = {"momentum": momentum, "betas[0]": betas[0], "betas[1]": betas[1]}
        for name, value in shares.items():
            if not 0 <= value < 1:
                raise ValueError(f"{name}={value}: expected 0 <= {name} < 1")
        rates = {"lr": lr, "weight_decay": weight_decay, "adam_rate": adam_rate}
        for name, value in rates.items():
            if not value >= 0:
                raise ValueError(f"{name}={value}: expected at least 0")
        if iterations < 1:
            raise ValueError(f"iterations={iterations}: expected at least 1")
        defaults = {**rates, "momentum": momentum, "betas": betas, "iterations": iterations}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Change the parameters that have a gradient; return the closure's result."""
        result = None
        if closure is not None:
            with torch.enable_grad():
                result = closure()
        for group in self.param_groups:
            trained = [each for each in group["params"] if each.grad is not None]
            for parameter in trained:
                change = self._change_filters if is_hidden(parameter) else self._change_as_adam
                change(parameter, group)
        return result

    def _change_filters(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        if not state:
            state["mean"] = torch.zeros_like(parameter)
        mean = state["mean"].lerp_(gradient, 1 - group["momentum"])
        ahead = gradient.lerp(mean, group["momentum"]).flatten(1)
        rows, columns = ahead.shape
        change = orthogonalize(ahead, group["iterations"]).view_as(parameter)
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(change, alpha=-group["lr"] * max(1, rows / columns) ** 0.5)

    def _change_as_adam(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        if not state:
            state |= {"step": 0, "mean": torch.zeros_like(parameter)}
            state["square"] = torch.zeros_like(parameter)
        state["step"] += 1
        first, second = group["betas"]
        mean = state["mean"].lerp_(gradient, 1 - first)
        square = state["square"].mul_(second).addcmul_(gradient, gradient, value=1 - second)
        deviation = (square / (1 - second ** state["step"])).sqrt_().add_(1e-8)
        rate = group["lr"] * group["adam_rate"] / (1 - first ** state["step"])
        parameter.addcdiv_(mean, deviation, value=-rate)


def is_hidden(parameter: Tensor) -> bool:
    """Return whether a parameter holds the filters of a layer between the first and the last."""
    if parameter.ndim < 2 or len(parameter) == 1:
        return False
    return parameter.ndim == 2 or parameter.shape[1] > FIRST_CHANNELS


def orthogonalize(matrix: Tensor, iterations: int) -> Tensor:
    """Return a matrix with the same singular vectors and singular values of about 1.

    Applies the polynomial of Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon/), in
    bfloat16, whose errors are smaller than the spread that the polynomial leaves (0.7 to 1.2).
    """
    a, b, c = COEFFICIENTS
    wide = matrix.bfloat16()
    if is_tall := len(matrix) > matrix.shape[1]:
        wide = wide.mT
    wide = wide / wide.norm().clamp(min=1e-7)
    for _ in range(iterations):
        square = wide @ wide.mT
        factor = torch.addmm(square, square, square, beta=b, alpha=c)
        wide = torch.addmm(wide, factor, wide, beta=a)
    return (wide.mT if is_tall else wide).to(matrix.dtype)
