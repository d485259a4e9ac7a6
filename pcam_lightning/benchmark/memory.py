"""How much memory there is, what was taken of it at most, and what happens where it ends."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

MIB = 2**20


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that a device or the machine has no memory left."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    # What torch's allocators for the CPU raise has no type of its own.
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


@contextmanager
def peak_memory(device: torch.device) -> Iterator[dict[str, float | None]]:
    """Yield a dict that has, after the block, `peak_host_mib` and `peak_device_mib`.

    The most that this process had resident, and the most that torch had allocated on a GPU (None
    on a CPU), at any moment of the block. What is there before the block counts too.
    """
    peaks: dict[str, float | None] = {"peak_host_mib": None, "peak_device_mib": None}
    status = Path("/proc/self/status")
    if status.exists():
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM, see proc(5)
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    yield peaks
    if status.exists():
        peaks["peak_host_mib"] = _kib(status, "VmHWM") / 1024
    if device.type == "cuda":
        peaks["peak_device_mib"] = torch.cuda.max_memory_allocated(device) / MIB


@contextmanager
def no_more_than_available(device: torch.device) -> Iterator[None]:
    """Let allocations fail in the block that would need more memory than the machine has left.

    Linux would grant them, and kill the process when it comes to use them. Nothing happens where
    work is done on a GPU, whose driver maps more than it uses.
    """
    if device.type != "cpu":
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_DATA)
    status, machine = Path("/proc/self/status"), Path("/proc/meminfo")
    if status.exists():
        allowed = 1024 * (_kib(status, "VmData") + _kib(machine, "MemAvailable"))
        if before[1] == resource.RLIM_INFINITY or allowed < before[1]:
            resource.setrlimit(resource.RLIMIT_DATA, (allowed, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def _kib(path: Path, name: str) -> int:
    line = next(each for each in path.read_text().splitlines() if each.startswith(f"{name}:"))
    return int(line.split()[1])
