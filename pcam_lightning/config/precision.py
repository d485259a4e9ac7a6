"""The numeric precision of a trainer: full names, the best for this machine, dtypes."""

import torch

from pcam_lightning.config.compose import Config

FULL_NAMES = {"64": "64-true", "32": "32-true", "16": "16-mixed", "bf16": "bf16-mixed"}
"""Of precisions whose short names Lightning warns of."""


def choose_precision(trainer: Config) -> str | int:
    """The precision of a trainer's config by its full name; "auto" is what suits this machine:

    bfloat16 where the hardware multiplies it: GPUs since Ampere; CPUs with AMX, where the cnn
    trains more than twice as fast as in float32, or with AVX512_BF16, where it trains 1.6 times as
    fast. Elsewhere float32. Settled by what the hardware is, not by a race at the start, which
    could end one way today and the other way tomorrow.
    """
    if trainer["precision"] != "auto":
        return FULL_NAMES.get(str(trainer["precision"])) or trainer["precision"]
    if trainer["accelerator"] != "cpu" and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.get_device_capability() >= (8, 0) else "32-true"
    abilities = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.11 and later
    fast = any(abilities.get(name) for name in ("amx_bf16", "avx512_bf16"))
    return "bf16-mixed" if fast else "32-true"


def compute_dtype(precision: str | int) -> torch.dtype:
    """The dtype that a trainer of this precision computes networks in."""
    kinds = {"16": torch.float16, "bf16": torch.bfloat16, "64": torch.float64}
    return kinds.get(str(precision).split("-")[0], torch.float32)
