import os
from pathlib import Path

import pytest
import torch

from pcam_lightning.runs.hardware import read_hardware

NVIDIA_SMI = """#!/bin/sh
case "$*" in *--query-gpu=index,uuid,memory.total,driver_version,name*) ;; *) exit 9 ;; esac
echo "0, GPU-aaaa-1, 81920, 550.54.15, NVIDIA H100 80GB HBM3"
echo "1, GPU-bbbb-2, 11264, 550.54.15, NVIDIA GeForce RTX 2080 Ti"
"""
H100 = {"name": "NVIDIA H100 80GB HBM3", "memory_gib": 80.0}
RTX = {"name": "NVIDIA GeForce RTX 2080 Ti", "memory_gib": 11.0}


def _install(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "nvidia-smi").write_text(script)
    (folder / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="needs Linux")
def test_this_machine():
    facts = read_hardware()
    kib = int(Path("/proc/meminfo").read_text().split()[1])
    assert facts["memory_gib"] == pytest.approx(kib / 2**20, abs=0.06)
    assert facts["host"] == os.uname().nodename
    assert facts["torch_threads"] == torch.get_num_threads()
    assert facts["cuda"] == torch.version.cuda


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_cores_are_those_this_process_may_use():
    allowed = os.sched_getaffinity(0)
    assert read_hardware()["cpu_cores"] == len(allowed)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert read_hardware()["cpu_cores"] == 1
    finally:
        os.sched_setaffinity(0, allowed)


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, [H100, RTX]),
        ("0,1", [H100, RTX]),
        ("1", [RTX]),
        ("GPU-aaaa", [H100]),
        ("MIG-1234", [H100, RTX]),
        ("-1", []),
        ("", []),
    ],
)
def test_graphics_cards_are_those_this_process_may_see(tmp_path, monkeypatch, visible, expected):
    _install(tmp_path, NVIDIA_SMI, monkeypatch)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    facts = read_hardware()
    assert facts["gpus"] == expected
    assert facts["driver"] == "550.54.15"


@pytest.mark.parametrize(
    "script", ["#!/bin/sh\necho 'No devices were found'\n", "#!/bin/sh\necho broken >&2; exit 9\n"]
)
def test_no_usable_graphics_card(tmp_path, monkeypatch, script):
    _install(tmp_path, script, monkeypatch)
    facts = read_hardware()
    assert (facts["gpus"], facts["driver"]) == ([], None)
