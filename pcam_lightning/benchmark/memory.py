"""Peak memory, and memory errors instead of a killed process."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

MIB = 2**20


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception reports that a device or the machine has no memory left."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    # torch's CPU allocator raises a plain RuntimeError.
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


@contextmanager
def peak_memory(device: torch.device) -> Iterator[dict[str, float | None]]:
    """Yield a dict that holds `peak_host_mib` and `peak_device_mib` after the block.

    The first is the peak of this process's resident memory, the second the peak of torch's
    allocations on the GPU (None on a CPU). Both include memory that was in use before the block.
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
    """Make allocations in the block fail if they exceed the machine's available memory.

    By default Linux grants them, and kills the process once it uses them. On a GPU there is no
    limit, since the driver maps more host memory than it uses.
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
