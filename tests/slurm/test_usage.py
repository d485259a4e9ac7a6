"""Resources of a sweep: the most that it can cost, and those that it has used."""

from pathlib import Path
from typing import Any

import pytest
from slurm_commands import Command, printing, shown, stand_in
from sweep_files import write_sweep

from pcam_lightning.slurm.jobs import job_states
from pcam_lightning.slurm.usage import COLUMNS, describe_request, describe_usage, job_usage

REQUEST = {"nodes": 1, "tasks_per_node": 1, "cpus_per_task": None, "timeout_min": 60}


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    return stand_in(tmp_path / "bin", monkeypatch)


# A request for 18 jobs, and the texts on its cost: jobs x hours x nodes x tasks x cores.
@pytest.mark.parametrize(
    ("request_", "texts"),
    [
        ({}, ["18 x 1 cores x 60 min", "18 core-hours"]),
        ({"cpus_per_task": 4, "timeout_min": 30}, ["18 x 4 cores x 30 min", "36 core-hours"]),
        (
            {"nodes": 2, "tasks_per_node": 4, "cpus_per_task": 9, "gpus_per_node": 4},
            ["18 x 72 cores", "1,296 core-hours", "144 GPU-hours"],
        ),
        ({"gpus_per_node": "a100:4"}, ["18 core-hours"]),
        ({"max_num_timeout": 3}, ["18 core-hours", "3 requeues"]),
    ],
)
def test_the_most_that_a_sweep_can_cost(request_: dict[str, Any], texts: list[str]) -> None:
    text = describe_request(REQUEST | request_, 18)
    assert all(each in text for each in texts)
    assert [word in text for word in ("GPU", "requeues")] == [
        word in str(texts) for word in ("GPU", "requeues")
    ]


def row(**values: float | None) -> dict[str, float | None]:
    return dict.fromkeys(COLUMNS) | values


def test_the_sum_of_all_jobs_and_the_largest_ones() -> None:
    usage = {
        "1": row(cpus=4, gpus=1, minutes=30, limit_minutes=60, asked_mb=4096, used_mb=1024),
        "2": row(cpus=4, gpus=1, minutes=90, limit_minutes=120, asked_mb=4096, used_mb=3072),
        "3": row(cpus=8, gpus=0, minutes=15),
        "4": row(),
    }
    text = describe_usage(usage)
    assert text is not None
    for each in ("10 core-hours", "2 GPU-hours", "90 of 120 min", "3 of 4 GB"):
        assert each in text


@pytest.mark.parametrize("usage", [{}, {"1": row()}])
def test_unknown_usage_is_no_line(usage) -> None:
    assert describe_usage(usage) is None


def test_unknown_limits_and_memory() -> None:
    text = describe_usage({"1": row(cpus=2, minutes=30)})
    assert text is not None and "1 core-hours" in text and "unknown" in text
    assert "GPU" not in text and "GB" not in text


def test_usage_of_slurm_jobs(slurm: Command, tmp_path: Path) -> None:
    slurm("squeue", "exit 0")
    slurm("scontrol", printing(shown("COMPLETED", "JobId=9 ArrayJobId=12 ArrayTaskId=0")))
    write_sweep(tmp_path / "sweep", [{}, {}])
    assert job_usage(job_states(tmp_path / "sweep")) == {
        "12_0": row(cpus=4, gpus=0, minutes=65 / 60, limit_minutes=30, asked_mb=4096)
    }


def test_slurm_is_not_asked_about_processes(slurm: Command, tmp_path: Path) -> None:
    """The process id of a local job may be the number of a job in Slurm."""
    slurm("scontrol", printing(shown("COMPLETED", "JobId=4194305")))
    write_sweep(tmp_path / "sweep", [{"job_id": "4194305"}], executor="local")
    assert job_usage(job_states(tmp_path / "sweep")) == {}
