"""Roofline: the cost of a step, and the machine's peak performance.

Williams, Waterman & Patterson 2009, Roofline: an insightful visual performance model for multicore
architectures, Communications of the ACM 52(4):65-76.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

SIDE = {"cpu": 2048, "cuda": 8192}
"""Rows of the largest square matrices whose product is timed, by device type."""
COPIED = {"cpu": 2**28, "cuda": 2**30}
"""Bytes of the timed copy, by device type; more than any cache holds."""


class Cost(NamedTuple):
    """Operations and memory traffic of one step."""

    flops: float
    """Floating-point operations of matrix products and convolutions, two for a multiply-add."""
    bytes: float
    """Bytes read and written, summed over operations: an upper limit, since fused operations and
    cached operands need less memory traffic."""


class Peak(NamedTuple):
    """Highest performance measured on this machine, in this run."""

    flops: float
    """Floating-point operations per second of a large matrix product."""
    bytes: float
    """Bytes per second, read and written, of a large copy."""


def cost_of(step: Callable[[], object]) -> Cost:
    """Run a step once and count its operations and bytes."""
    traffic = _Traffic()
    with FlopCounterMode(display=False) as flops, traffic:
        step()
    return Cost(float(flops.get_total_flops()), float(traffic.bytes))


def peak_of(device: torch.device, dtype: torch.dtype, repeats: int = 5) -> Peak:
    """Return the best of several measurements, with as many threads as torch uses.

    Where products in `dtype` are slower than in float32 (a CPU without instructions for it), the
    peak is that of float32: convolutions compute in it there. Matrices grow until a product takes
    a tenth of a second, so that such a CPU is not kept busy for minutes.
    """
    source = torch.empty(COPIED.get(device.type, COPIED["cpu"]), dtype=torch.uint8, device=device)
    source.fill_(1)
    target = source.clone()

    def best(work: Callable[[], object]) -> float:
        seconds = []
        for _ in range(repeats + 1):
            synchronize(device)
            start = time.perf_counter()
            work()
            synchronize(device)
            seconds.append(time.perf_counter() - start)
        return min(seconds[1:])

    def flops(dtype: torch.dtype) -> float:
        side, fastest = 256, 0.0
        while True:
            matrix = torch.randn(side, side, device=device).to(dtype)
            result = torch.empty_like(matrix)
            seconds = best(partial(torch.mm, matrix, matrix, out=result))
            fastest = max(fastest, 2 * side**3 / seconds)
            if seconds > 0.1 or side >= SIDE.get(device.type, SIDE["cpu"]):
                return fastest
            side *= 2

    return Peak(
        max(flops(each) for each in {dtype, torch.float32}),
        2 * source.numel() / best(lambda: target.copy_(source)),
    )


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished all queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class _Traffic(TorchDispatchMode):
    """Sum of the bytes of the tensors that operations read and return."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        # A view reads and writes no data.
        if not any(each.alias_info and not each.alias_info.is_write for each in _returns(func)):
            tensors = tree_leaves((args, kwargs, result))
            self.bytes += sum(t.nbytes for t in tensors if isinstance(t, torch.Tensor))
        return result


def _returns(func: Any) -> list[Any]:
    return getattr(getattr(func, "_schema", None), "returns", [])
