"""Partitions from `scontrol` and `sinfo`, which scripts stand in for, and requests beyond them."""

from pathlib import Path
from typing import Any

import pytest
from slurm_commands import Command, printing, stand_in

from pcam_lightning.slurm.partitions import Partition, read_partitions

SCONTROL = """
PartitionName=gpu AllowGroups=ALL Default=NO MaxTime=1-00:00:00 Nodes=gpu[1-3] State=UP TotalNodes=3
PartitionName=thin AllowGroups=ALL Default=YES MaxTime=UNLIMITED Nodes=thin[1-2] State=UP
PartitionName=fat AllowGroups=ALL Default=NO MaxTime=02:30:00 Nodes=fat1 State=DOWN
PartitionName=empty AllowGroups=ALL Default=NO MaxTime=10:00 Nodes=(null) State=UP
"""
# A line for each kind of node; `+` means that nodes of this kind differ.
SINFO = """
gpu|18|128000|gpu:a100:4(S:0-1)|2
gpu|36|64000+|gpu:h100:2,gpu:a100:1|1
thin|16+|32000|(null)|2
fat|64|1048576|(null)|1
other|1|1|(null)|1
slurm is slow today
"""


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    return stand_in(tmp_path / "bin", monkeypatch)


def test_facts_of_the_partitions(slurm: Command) -> None:
    slurm("scontrol", printing(SCONTROL))
    slurm("sinfo", printing(SINFO))
    assert read_partitions() == {
        "gpu": Partition("gpu", False, True, 1440, 3, 36, 125.0, 4),
        "thin": Partition("thin", True, True, None, 2, 16, 31.25, 0),
        "fat": Partition("fat", False, False, 150, 1, 64, 1024.0, 0),
        "empty": Partition("empty", False, True, 10, 0, 0, 0, 0),
    }


@pytest.mark.parametrize("absent", ["scontrol", "sinfo"])
def test_no_answer(slurm: Command, absent: str) -> None:
    for name, text in (("scontrol", SCONTROL), ("sinfo", SINFO)):
        slurm(name, "exit 1" if name == absent else printing(text))
    assert read_partitions() is None


GPU = Partition("gpu", False, True, 1440, nodes=3, cpus=36, memory_gb=125.0, gpus=4)
FITS = {
    "nodes": 3, "tasks_per_node": 4, "cpus_per_task": 9, "gpus_per_node": 4, "mem_gb": 125,
    "timeout_min": 1440,
}  # fmt: skip


# Each value that the partition cannot give, and what the message names beside key and partition.
@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("timeout_min", 1441, "1440"),
        ("nodes", 4, "3 nodes"),
        ("cpus_per_task", 10, "36"),
        ("gpus_per_node", 5, "4 GPUs"),
        ("mem_gb", 126, "125 GB"),
    ],
)
def test_a_request_beyond_the_nodes(key: str, value: int, named: str) -> None:
    (line,) = GPU.problems(FITS | {key: value})
    assert line.startswith(f"hydra.launcher.{key}={value}: ")
    assert "partition gpu" in line and named in line and "\n" not in line


# Requests that fit, or that only Slurm can judge.
@pytest.mark.parametrize(
    "resources",
    [
        {},
        {"mem_gb": None, "cpus_per_task": None, "gpus_per_node": None},
        {"gpus_per_node": "a100:4"},
    ],
)
def test_a_request_that_fits(resources: dict[str, Any]) -> None:
    assert list(GPU.problems(FITS | resources)) == []
    assert list(Partition("new", True, True, None).problems(FITS | resources)) == []


def test_a_partition_that_is_down_and_one_without_gpus() -> None:
    thin = Partition("thin", True, False, None, nodes=9, cpus=99, memory_gb=999, gpus=0)
    down, gpus = thin.problems(FITS)
    assert down.startswith("hydra.launcher.partition=thin: ")
    assert gpus.startswith("hydra.launcher.gpus_per_node=4: ") and "no GPU" in gpus
