"""Hardware of a run: the processor, memory and graphics cards that this process may use."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
from pathlib import Path
from typing import Any


def read_hardware() -> dict[str, Any]:
    """Return facts about this machine; unknown ones are None.

    `cpu_cores` counts the cores that this process may use, `memory_gib` is the machine's memory.
    Graphics cards come from nvidia-smi, without those that CUDA_VISIBLE_DEVICES hides: torch would
    start CUDA in this process, which could not be forked afterwards.
    """
    return {
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "cpu": _cpu_model(),
        "cpu_cores": _cpu_cores(),
        "memory_gib": _memory_gib(),
        **_gpus(os.environ.get("CUDA_VISIBLE_DEVICES")),
        **_torch_facts(),
    }


def _cpu_model() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or None


def _cpu_cores() -> int | None:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, OSError, ValueError):
        return None


def _gpus(visible: str | None) -> dict[str, Any]:
    query = "--query-gpu=index,uuid,memory.total,driver_version,name"
    try:
        answer = subprocess.run(
            ["nvidia-smi", query, "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=30,
        )
    except (OSError, subprocess.TimeoutExpired):
        return {"gpus": [], "driver": None}
    cards = [line.split(", ", 4) for line in answer.stdout.splitlines() if line.count(", ") >= 4]
    if answer.returncode or not cards:
        return {"gpus": [], "driver": None}
    gpus = [
        {"name": name, "memory_gib": round(int(mib) / 1024, 1) if mib.isdigit() else None}
        for index, uuid, mib, _, name in cards
        if _is_visible(index, uuid, visible)
    ]
    return {"gpus": gpus, "driver": cards[0][3]}


def _is_visible(index: str, uuid: str, visible: str | None) -> bool:
    if visible is None:
        return True
    wanted = [entry.strip() for entry in visible.split(",")]
    # A slice of a card (MIG) has its own id, so that its card is unknown: report every card.
    if any(entry.startswith("MIG-") for entry in wanted):
        return True
    return any(entry == index or (entry and uuid.startswith(entry)) for entry in wanted)


def _torch_facts() -> dict[str, Any]:
    try:
        import torch
    except (ImportError, OSError):  # OSError: a library of torch is missing
        return {"cuda": None, "torch_threads": None}
    return {"cuda": torch.version.cuda, "torch_threads": torch.get_num_threads()}
