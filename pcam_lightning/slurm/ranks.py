"""How many processes a trainer's devices need."""

from typing import Any


def ranks_per_node(devices: Any) -> int:
    """One for each of `trainer.devices`: a number, a list of numbers, or "auto", which is one."""
    if isinstance(devices, int):
        return devices
    return 1 if isinstance(devices, str) else len(devices)
