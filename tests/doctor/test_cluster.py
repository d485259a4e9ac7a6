"""Findings about Slurm where there is none; tests/slurm/test_doctor.py has a real one."""

from pathlib import Path
from typing import Any

from pcam_lightning.doctor import cluster

SHARES = {"partition": None, "cpus_per_task": 1, "mem_gb": None}
GENERIC: dict[str, Any] = {
    "name": "generic", "account": None, "gpu": SHARES, "cpu": SHARES, "setup": [],
}  # fmt: skip


def test_a_machine_without_slurm_is_green(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert [each.level for each in cluster.examine(None, GENERIC)] == ["green"]


def test_nodes_that_are_down_are_yellow(monkeypatch) -> None:
    monkeypatch.setattr(cluster, "is_cluster", lambda: True)
    monkeypatch.setattr(cluster, "ask", lambda *_: None)
    lines = [
        ["gpu*", "up", "1:00", "2", "8", "9000+", "gpu:a100:4", state]
        for state in ("drained", "down*")
    ]
    partitions = {"gpu": cluster.Partition("gpu", True, tuple(lines))}
    _, partition, cpu, gpu, *_ = cluster.examine(partitions, GENERIC)
    assert partition.level == "yellow" and "gpu:a100:4" in partition.fact
    assert cpu.level == gpu.level == "green"


def test_limits_of_accounting(monkeypatch) -> None:
    answers = {
        "scontrol": "MaxArraySize = 1001\nAccountingStorageType = accounting_storage/slurmdbd\n",
        "sacctmgr": "lab|gpu|8|100\n",
    }
    monkeypatch.setattr(cluster, "is_cluster", lambda: True)
    monkeypatch.setattr(cluster, "ask", lambda name, *_: answers.get(name))
    limits = list(cluster.examine({}, GENERIC))[-1]
    assert limits.level == "green" and "100" in limits.fact and "lab" in limits.fact
    del answers["sacctmgr"]
    assert list(cluster.examine({}, GENERIC))[-1].level == "yellow"
