"""Number of processes that a trainer's devices need."""

from typing import Any


def ranks_per_node(devices: Any) -> int:
    """Return the number of devices in `trainer.devices`: a number, a list, or "auto" (one)."""
    if isinstance(devices, int):
        return devices
    return 1 if isinstance(devices, str) else len(devices)
