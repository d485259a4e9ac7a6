"""Settings of torch that decide whether a run can be repeated bit for bit."""

from typing import Any

import torch


def determinism(ranks: int) -> dict[str, Any]:
    """Return the settings on which bit-identical repetition depends, besides the hardware."""
    return {
        "ranks": ranks,
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
    }
