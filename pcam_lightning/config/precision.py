"""Numeric precision of a trainer: full names, the best one for this machine, dtypes."""

import torch

from pcam_lightning.config.compose import Config

FULL_NAMES = {"64": "64-true", "32": "32-true", "16": "16-mixed", "bf16": "bf16-mixed"}
"""Full names of the short precision names that Lightning deprecates."""


def choose_precision(trainer: Config) -> str | int:
    """Return the full name of a trainer's precision; "auto" chooses the best for this machine.

    "auto" is bfloat16 if the hardware multiplies it: GPUs since Ampere; CPUs with AMX (the cnn
    trains more than twice as fast as in float32) or AVX512_BF16 (1.6 times as fast). Otherwise it
    is float32. The choice depends on the hardware alone and not on a measurement, so that it is the
    same in every run.
    """
    if trainer["precision"] != "auto":
        return FULL_NAMES.get(str(trainer["precision"])) or trainer["precision"]
    if trainer["accelerator"] != "cpu" and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.get_device_capability() >= (8, 0) else "32-true"
    abilities = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.11 and later
    fast = any(abilities.get(name) for name in ("amx_bf16", "avx512_bf16"))
    return "bf16-mixed" if fast else "32-true"


def compute_dtype(precision: str | int) -> torch.dtype:
    """Return the dtype in which a trainer of this precision computes networks."""
    kinds = {"16": torch.float16, "bf16": torch.bfloat16, "64": torch.float64}
    return kinds.get(str(precision).split("-")[0], torch.float32)
