"""Output of `squeue`, which a script stands in for."""

from pathlib import Path

import pytest

from pcam_lightning.slurm import queue


@pytest.fixture
def squeue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def write(script: str) -> None:
        path = tmp_path / "bin" / "squeue"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{path.parent}:/usr/bin:/bin")

    return write


# Like Slurm: pending elements of an array share a line unless --array is given.
QUEUE = """
echo 12_0 RUNNING
case " $* " in
  *" --array "*) echo 12_3 PENDING; echo 12_4 PENDING ;;
  *) echo '12_[3-4%2] PENDING' ;;
esac
echo 13 COMPLETING; echo 99 RUNNING; echo; echo slurm is slow today
"""


def test_arrays_and_plain_jobs(squeue) -> None:
    squeue(QUEUE)
    asked = ["12_0", "12_1", "12_3", "12_4", "13"]
    found = {"12_0": "RUNNING", "12_3": "PENDING", "12_4": "PENDING", "13": "COMPLETING"}
    assert queue.states(asked) == found


@pytest.mark.parametrize(
    "script", ["echo slurm_load_jobs error: Unable to contact >&2; exit 1", "exec sleep 60"]
)
def test_a_queue_without_an_answer(squeue, monkeypatch, script: str) -> None:
    squeue(script)
    monkeypatch.setattr(queue, "SECONDS", 0.5)
    assert queue.states(["1"]) is None


def test_no_slurm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert queue.states(["1"]) is None
    assert queue.states([]) == {}
