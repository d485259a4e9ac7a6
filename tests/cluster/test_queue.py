"""What `squeue` prints, as a script in its place prints it."""

from pathlib import Path

import pytest

from pcam_lightning.cluster.queue import states


@pytest.fixture
def squeue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def write(script: str) -> None:
        path = tmp_path / "bin" / "squeue"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{path.parent}:/usr/bin:/bin")

    return write


# As Slurm: elements of an array that wait are one line, unless -r asks for one each.
QUEUE = """
case " $* " in
  *" -r "*) printf '12_0 RUNNING\\n12_3 PENDING\\n12_4 PENDING\\n13 COMPLETING\\n99 RUNNING\\n' ;;
  *) printf '12_0 RUNNING\\n12_[3-4%2] PENDING\\n13 COMPLETING\\n99 RUNNING\\n' ;;
esac
"""


def test_arrays_and_plain_jobs(squeue) -> None:
    squeue(QUEUE)
    asked = ["12_0", "12_1", "12_3", "12_4", "13"]
    found = {"12_0": "RUNNING", "12_3": "PENDING", "12_4": "PENDING", "13": "COMPLETING"}
    assert states(asked) == found


def test_only_this_users_jobs_are_asked_for(squeue, tmp_path: Path) -> None:
    squeue(f'echo "$@" > {tmp_path}/words')
    assert states(["1"]) == {}
    words = (tmp_path / "words").read_text().split()
    assert int(words[words.index("-u") + 1]) == tmp_path.stat().st_uid


@pytest.mark.parametrize(
    "script", ["echo slurm_load_jobs error: Unable to contact >&2; exit 1", "exec sleep 60"]
)
def test_a_queue_that_cannot_be_asked(squeue, script: str) -> None:
    squeue(script)
    assert states(["1"], timeout=0.5) is None


def test_no_slurm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert states(["1"]) is None
    assert states([]) == {}
