"""Ends of jobs from `scontrol` and `sacct`, which scripts stand in for."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from slurm_commands import Command, printing, shown, stand_in

from pcam_lightning.slurm.ends import JobEnd, job_ends, seconds_of

ROW = "12_0|FAILED|1:0|65|30|4G||4|billing=4,cpu=4,mem=4G,node=1|thin1"


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    return stand_in(tmp_path / "bin", monkeypatch)


# Facts of a line of scontrol, and the facts read from it.
@pytest.mark.parametrize(
    ("line", "facts"),
    [
        (
            shown("TIMEOUT", RunTime="1-02:03:04", TimeLimit="1-02:00:00", Restarts="2"),
            {
                "state": "TIMEOUT", "exit_code": 0, "signal": 0, "restarts": 2,
                "seconds": 93784.0, "limit_min": 1560.0, "asked_mb": 4096.0, "used_mb": None,
                "cpus": 4, "gpus": 0, "node": "thin1",
            },
        ),
        (shown("FAILED", ExitCode="137:0"), {"exit_code": 137, "signal": 9}),
        (shown("FAILED", ExitCode="1:0"), {"exit_code": 1, "signal": 0}),
        (shown("FAILED", ExitCode="0:11"), {"exit_code": 0, "signal": 11}),
        (shown("CANCELLED", NodeList="(null)", RunTime="00:00:00"), {"node": None, "seconds": 0}),
        (shown("NODE_FAIL", TimeLimit="UNLIMITED"), {"limit_min": None}),
        (shown("OUT_OF_MEMORY", MinMemoryNode="500M"), {"asked_mb": 500.0}),
        (shown("OUT_OF_MEMORY", MinMemoryNode="0"), {"asked_mb": 4096.0}),
        (shown("PREEMPTED", TRES="cpu=4,mem=4G,node=1,gres/gpu=2"), {"gpus": 2}),
        (shown("PENDING", TRES="(null)", NodeList=""), {"gpus": 0, "node": None}),
        # Slurm 23.02 and later
        (shown("FAILED").replace(" TRES=", " ReqTRES=x AllocTRES=gres/gpu=3,"), {"gpus": 3}),
        (
            shown("PENDING").replace(" TRES=", " AllocTRES=(null) ReqTRES=gres/gpu=3,"),
            {"gpus": 3},
        ),
        (shown("FAILED", JobName="a JobState=X b"), {"state": "FAILED"}),
    ],
)  # fmt: skip
def test_facts_of_the_controller(slurm: Command, line: str, facts: dict[str, Any]) -> None:
    slurm("scontrol", printing(line))
    found = asdict(job_ends(["9"])["9"])
    assert {key: found[key] for key in facts} == facts


# A record of scontrol, and the ids of submitit that it is about.
@pytest.mark.parametrize(
    ("job", "ids"),
    [
        ("JobId=9", {"9"}),
        ("JobId=9 ArrayJobId=8 ArrayTaskId=1", {"8_1"}),
        ("JobId=8 ArrayJobId=8 ArrayTaskId=0-2%3", {"8_0", "8_1", "8_2"}),
        ("JobId=8 ArrayJobId=8 ArrayTaskId=0,2-3,9%1", {"8_0", "8_2", "8_3", "8_9"}),
    ],
)
def test_arrays_of_the_controller(slurm: Command, job: str, ids: set[str]) -> None:
    slurm("scontrol", printing(shown("COMPLETED", job)))
    asked = ["9", *(f"8_{task}" for task in range(11))]
    assert set(job_ends(asked)) == ids


def test_one_query_for_an_array_and_one_for_many(slurm: Command, tmp_path: Path) -> None:
    log = tmp_path / "asked"
    slurm("scontrol", f"echo $* >> {log}; " + printing(shown("FAILED")))
    job_ends(["8_0", "8_1", "9"])
    assert log.read_text().split("\n")[:-1] == [f"--oneliner show job {n}" for n in (8, 9)]
    log.unlink()
    job_ends([str(number) for number in range(100)])
    assert log.read_text() == "--oneliner show job\n"


def test_facts_of_the_accounting(slurm: Command) -> None:
    """Memory is accounted for by step; the largest one counts."""
    steps = [
        "12_0.batch|FAILED|1:0|65|||200K|4|cpu=4|thin1",
        "12_0.0|FAILED|1:0|65|||3145728K|4|cpu=4|thin1",
        "12_0.1|FAILED|1:0|65|||512M|4|cpu=4|thin1",
    ]
    other = "12_1|CANCELLED by 1000|0:0|0|Partition_Limit|4000Mn||2|cpu=2,gres/gpu=1|None assigned"
    slurm("sacct", printing("\n".join([ROW, *steps, other, "slurm is slow today", "a|b"])))
    assert job_ends(["12_0", "12_1", "12_2"]) == {
        "12_0": JobEnd("FAILED", 1, 0, 0, 65.0, 30.0, 4096.0, 3072.0, 4, 0, "thin1"),
        "12_1": JobEnd("CANCELLED", 0, 0, 0, 0.0, None, 4000.0, None, 2, 1, None),
    }


def test_the_accounting_completes_the_controller(slurm: Command) -> None:
    """The database lags behind: the controller's state counts."""
    slurm("sacct", printing(ROW.replace("FAILED", "RUNNING") + "\n12_0.0|R|0:0|1|||9M|4||thin1"))
    slurm("scontrol", printing(shown("TIMEOUT", "JobId=9 ArrayJobId=12 ArrayTaskId=0")))
    end = job_ends(["12_0"])["12_0"]
    assert (end.state, end.used_mb, end.limit_min) == ("TIMEOUT", 9.0, 30.0)


@pytest.mark.parametrize("script", ["echo Invalid job id specified >&2; exit 1", "exec sleep 60"])
def test_a_slurm_that_remembers_nothing(slurm: Command, monkeypatch, script: str) -> None:
    monkeypatch.setattr("pcam_lightning.slurm.queue.SECONDS", 0.2)
    assert job_ends(["12_0"]) == {}
    slurm("scontrol", script)
    slurm("sacct", script)
    assert job_ends(["12_0"]) == {} == job_ends([])


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("00:00:00", 0),
        ("02:30", 150),
        ("01:30:00", 5400),
        ("1-00:00:00", 86400),
        ("UNLIMITED", None),
        ("INVALID", None),
        (None, None),
    ],
)
def test_times_of_slurm(text: str | None, seconds: float | None) -> None:
    assert seconds_of(text) == seconds
