import mmap
import subprocess
import sys

import torch

from pcam_lightning.benchmark.memory import is_out_of_memory, peak_memory

CPU = torch.device("cpu")


def test_the_peak_includes_freed_memory() -> None:
    with peak_memory(CPU) as before:
        pass
    # 256 MiB of the system, freed at once: torch's allocator may own freed memory.
    with peak_memory(CPU) as during, mmap.mmap(-1, 2**28) as pages:
        pages[:: mmap.PAGESIZE] = bytes(2**28 // mmap.PAGESIZE)
    assert before["peak_host_mib"] is not None and during["peak_host_mib"] is not None
    assert 250 < during["peak_host_mib"] - before["peak_host_mib"] < 300
    assert during["peak_device_mib"] is None


def test_an_allocation_beyond_available_memory_raises() -> None:
    # Linux grants 1.1 times the available memory by default.
    code = """
import torch
from pcam_lightning.benchmark.memory import is_out_of_memory, no_more_than_available
available = next(int(l.split()[1]) for l in open("/proc/meminfo") if l.startswith("MemAvailable"))
with no_more_than_available(torch.device("cpu")):
    try:
        torch.empty(int(1.1 * 1024 * available), dtype=torch.uint8)
    except Exception as error:
        print("raised", is_out_of_memory(error))
torch.empty(int(1.1 * 1024 * available), dtype=torch.uint8)
print("granted")
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.stdout.split() == ["raised", "True", "granted"], ended.stderr


def test_other_errors_are_not_out_of_memory() -> None:
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
