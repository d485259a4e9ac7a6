"""Findings of the doctor about a real Slurm."""

import os
from pathlib import Path
from typing import Any

import pytest

from pcam_lightning.doctor import cluster, job
from pcam_lightning.doctor.finding import Finding

pytestmark = [pytest.mark.usefixtures("slurm"), pytest.mark.xdist_group("slurm")]

SHARES = {"partition": None, "cpus_per_task": 1, "mem_gb": None}
GENERIC: dict[str, Any] = {
    "name": "generic", "account": None, "gpu": SHARES, "cpu": SHARES, "setup": [],
}  # fmt: skip
COURSE = GENERIC | {"gpu": SHARES | {"partition": "gpu_course"}}


def found(chosen: dict[str, Any]) -> dict[str, Finding]:
    return {each.name: each for each in cluster.examine(cluster.read_partitions(), chosen)}


def test_partitions_and_limits() -> None:
    findings = found(COURSE)
    assert {each.level for each in findings.values()} == {"green"}
    fact = findings["partition gpu_course"].fact
    assert all(text in fact for text in ("1-00:00:00", "18 CPUs", "32 GB", "gpu:1"))
    assert "1001" in findings["MaxArraySize"].fact


def test_partitions_that_are_missing_or_lack_gpus() -> None:
    assert found(GENERIC)["slurm_gpu"].level == "yellow"
    unknown = found(GENERIC | {"cpu": SHARES | {"partition": "absent"}})["slurm_cpu"]
    assert unknown.level == "red" and "thin_course" in str(unknown.mend)


def test_a_controller_that_is_gone_is_red(tmp_path: Path, monkeypatch) -> None:
    present = Path(os.environ["SLURM_CONF"]).read_text().splitlines()
    lines = ["SlurmctldPort=9" if "SlurmctldPort" in line else line for line in present]
    (tmp_path / "slurm.conf").write_text("\n".join([*lines, "MessageTimeout=1", ""]))
    (tmp_path / "gres.conf").write_text("")
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
    assert [each.level for each in found(GENERIC).values()] == ["red"]


def test_jobs_report_their_node(tmp_path: Path, monkeypatch) -> None:
    """The GPUs of this Slurm are pretended, so that torch sees none."""
    monkeypatch.setattr(job, "SECONDS_BETWEEN_LOOKS", 1)
    monkeypatch.setenv("SLURM_JOB_ID", "7")  # as inside of a job
    partitions = cluster.read_partitions()
    assert partitions is not None
    cpu, gpu = job.examine(tmp_path, COURSE, partitions, 120)
    assert cpu.level == "green" and "on thin" in cpu.fact
    assert gpu.level == "red" and "on gpu" in gpu.fact and "NVIDIA" in gpu.fact


def test_failing_rejected_and_late_jobs(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(job, "SECONDS_BETWEEN_LOOKS", 1)
    monkeypatch.setattr(job, "SECONDS_TO_APPEAR", 1)
    partitions = cluster.read_partitions()
    assert partitions is not None
    broken = GENERIC | {"setup": ["echo no module named CUDA; exit 3"]}
    (failed,) = job.examine(tmp_path, broken, partitions, 60)
    assert failed.level == "red" and failed.fact.endswith("no module named CUDA")
    unknown = GENERIC | {"cpu": SHARES | {"partition": "absent"}}
    (rejected,) = job.examine(tmp_path, unknown, partitions, 60)
    assert rejected.level == "red" and "absent" in rejected.fact
    late = GENERIC | {"setup": ["sleep 60"]}
    (canceled,) = job.examine(tmp_path, late, partitions, 1)
    assert canceled.level == "yellow" and "RUNNING" in canceled.fact
