"""Packages, GPUs and threads: broken libraries are told apart from missing ones."""

import os
import sys
from pathlib import Path

import pytest

from pcam_lightning.doctor import gpu, packages, probe, threads
from pcam_lightning.doctor.probe import TorchFacts, probe_torch

WORKS = {"torch": "2.9.0", "torchvision": "0.24.0", "cuda": "13.0", "gpus": []}


def facts(**values: object) -> TorchFacts:
    return TorchFacts(WORKS | values, "end")


def stand_in(folder: Path, monkeypatch, **modules: str) -> None:
    """Make a process import these modules in place of the installed ones."""
    for name, program in modules.items():
        (folder / f"{name}.py").write_text(program)
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", path)


def script(folder: Path, monkeypatch, name: str, text: str) -> None:
    """Put a command before all others in PATH."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_torch_of_this_machine(tmp_path: Path, monkeypatch) -> None:
    """With the real torch: a driver that lists a GPU which torch does not see is red."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    found = probe_torch()
    assert (found.stage, found.fault) == ("end", None)
    assert found.get("gpus") == [] and found.get("threads") >= 1
    assert {each.level for each in packages.examine(found)} == {"green"}
    script(tmp_path, monkeypatch, "nvidia-smi", "echo 'NVIDIA H100, 560.35'")
    card, _ = gpu.examine(found)
    assert card.level == "red" and "H100" in card.fact and card.mend == "unset CUDA_VISIBLE_DEVICES"


CRASH = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
USABLE = (
    "import types; __version__ = '9.0'; version = types.SimpleNamespace(cuda='13.0')\n"
    "get_num_threads = lambda: 1; hub = types.SimpleNamespace(get_dir=lambda: '/hub')\n"
)


@pytest.mark.parametrize(
    ("torch", "torchvision", "red", "words"),
    [
        (CRASH, "", "torch", "SIGSEGV"),
        ("raise OSError('libcudart.so.13: cannot open shared object file')", "", "torch", "cudart"),
        (
            USABLE,
            "raise RuntimeError('operator torchvision::nms does not exist')",
            "torchvision",
            "torchvision::nms",
        ),
        (USABLE + f"def __getattr__(name):\n    {CRASH}\n", "__version__ = '1'", "GPU", "SIGSEGV"),
    ],
)
def test_a_broken_library_is_red_and_named(
    torch: str, torchvision: str, red: str, words: str, tmp_path: Path, monkeypatch
) -> None:
    stand_in(tmp_path, monkeypatch, torch=torch, torchvision=torchvision)
    found = probe_torch()
    findings = [*packages.examine(found), *gpu.examine(found)]
    (first, *_) = [each for each in findings if each.level == "red"]
    assert first.name == red and words in first.fact and first.mend


def test_a_crash_with_foreign_libraries_names_their_variables(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    stand_in(tmp_path, monkeypatch, torch=CRASH)
    *_, finding = packages.examine(probe_torch())
    assert finding.level == "red" and "LD_LIBRARY_PATH" in str(finding.mend)


def test_a_library_that_hangs_is_red(tmp_path: Path, monkeypatch) -> None:
    stand_in(tmp_path, monkeypatch, torch="import time; time.sleep(60)")
    found = probe_torch(seconds=2)
    assert found.stage == "import" and "2 s" in str(found.fault)


@pytest.mark.parametrize(
    ("driver", "torch", "level", "words"),
    [
        (None, facts(), "yellow", "CPU"),
        ("echo 'A100, 560'; echo 'A100, 560'", facts(gpus=["A100", "A100"]), "green", "2 x A100"),
        ("echo 'A100, 560'", facts(cuda=None), "red", "built for CPUs"),
        ("echo 'A100, 470'", facts(gpu_warning="driver is too old"), "red", "too old"),
        ("echo 'A100, 560'", facts(gpu_error="no kernel image"), "red", "no kernel image"),
        ("echo 'Driver/library version mismatch' >&2; exit 18", facts(), "red", "mismatch"),
    ],
)
def test_driver_and_torch_are_compared(
    driver: str | None, torch: TorchFacts, level: str, words: str, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    if driver:
        script(tmp_path, monkeypatch, "nvidia-smi", driver)
    first = next(gpu.examine(torch))
    assert first.level == level and words in first.fact


@pytest.mark.parametrize(
    ("visible", "reason", "is_hidden"),
    [
        ("-1", "No CUDA GPUs are available", True),
        ("9", "No CUDA GPUs are available", True),
        ("0", "Found no NVIDIA driver on your system", False),  # as in a job of Slurm
    ],
)
def test_a_hidden_gpu_is_told_from_a_broken_driver(
    visible: str, reason: str, is_hidden: bool, tmp_path: Path, monkeypatch
) -> None:
    script(tmp_path, monkeypatch, "nvidia-smi", "echo 'A100, 560'")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    first = next(gpu.examine(facts(gpu_warning=reason)))
    assert first.level == "red"
    assert (first.mend == "unset CUDA_VISIBLE_DEVICES") == is_hidden


def test_requirements_out_of_range_and_missing_ones_are_red() -> None:
    wanted = ["numpy>=1", "h5py>=999", "absent-package>=1", "absent-extra; extra == 'x'"]
    findings = list(packages.examine_requirements(wanted))
    assert [(each.name, each.level) for each in findings] == [
        ("h5py", "red"),
        ("absent-package", "red"),
    ]
    assert findings[0].mend == "pip install 'h5py>=999'"


def test_the_probe_prints_its_last_stage_first() -> None:
    found = probe.read_facts('noise\n{"stage": "GPU"}\n', "killed by SIGKILL")
    assert (found.stage, found.fault) == ("GPU", "killed by SIGKILL")


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/job/step", {"job/cpu.max": "150000 100000", "job/step/cpu.max": "max 100000"}, 1.5),
        ("0::/elsewhere", {"cpu.max": "400000 100000"}, 4.0),
        (
            "4:cpu,cpuacct:/job",
            {"cpu/job/cpu.cfs_quota_us": "200000", "cpu/job/cpu.cfs_period_us": "100000"},
            2.0,
        ),
        ("4:cpu:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ("", {}, None),
    ],
)
def test_limits_of_both_versions_of_cgroups(
    groups: str, files: dict[str, str], expected: float | None, tmp_path: Path
) -> None:
    for name, text in files.items():
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    (tmp_path / "groups").write_text(groups)
    assert threads.cgroup_cpus(tmp_path / "groups", tmp_path / "root") == expected


def test_more_threads_than_cpus_are_yellow(monkeypatch) -> None:
    monkeypatch.setattr(threads, "cgroup_cpus", lambda: 0.5)
    (finding,) = threads.examine(facts(threads=8))
    assert finding.level == "yellow" and finding.mend == "export OMP_NUM_THREADS=1"
    assert sys.platform != "linux" or "affinity" in finding.fact
