"""Output of `squeue`, which a script stands in for."""

from pathlib import Path

import pytest

from pcam_lightning.slurm import queue
from pcam_lightning.slurm.queue import QueuedJob


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
case " $* " in *" --me "*) ;; *) echo '1|RUNNING|None|N/A|thin9' ;; esac
echo '12_0|RUNNING|None|2026-11-29T05:00:00|thin1'
case " $* " in
  *" --array "*)
    echo '12_3|PENDING|Priority|2026-11-29T12:00:00|'
    echo '12_4|PENDING|JobArrayTaskLimit|N/A|' ;;
  *) echo '12_[3-4%2]|PENDING|Priority|N/A|' ;;
esac
echo '13|COMPLETING|None|2026-11-29T05:00:00|thin[1-2]'; echo '14|REQUEUED|None|N/A|'
echo '99|RUNNING|None|N/A|thin1'; echo; echo slurm is slow today
"""


def test_arrays_and_plain_jobs(squeue) -> None:
    squeue(QUEUE)
    began, later = "2026-11-29T05:00:00", "2026-11-29T12:00:00"
    assert queue.queued_jobs(["12_0", "12_1", "12_3", "12_4", "13", "14"]) == {
        "12_0": QueuedJob("RUNNING", start=began, node="thin1"),
        "12_3": QueuedJob("PENDING", reason="Priority", start=later),
        "12_4": QueuedJob("PENDING", reason="JobArrayTaskLimit"),
        "13": QueuedJob("COMPLETING", start=began, node="thin[1-2]"),
        "14": QueuedJob("REQUEUED"),
    }
    assert set(queue.own_jobs() or ()) == {"12_0", "12_3", "12_4", "13", "14", "99"}


@pytest.mark.parametrize(
    ("job", "words"),
    [
        (QueuedJob("PENDING", "Priority", "2026-11-29T12:00:00"), ("Priority", "T12:00:00")),
        (QueuedJob("PENDING", "Resources"), ("Resources",)),
        (QueuedJob("PENDING"), ()),
        (QueuedJob("RUNNING", start="2026-11-29T12:00:00", node="thin1"), ()),
    ],
)
def test_what_a_job_waits_for(job: QueuedJob, words: tuple[str, ...]) -> None:
    assert all(word in (job.waits_for or "") for word in words)
    assert (job.waits_for is None) == (not words)


@pytest.mark.parametrize(
    "script", ["echo slurm_load_jobs error: Unable to contact >&2; exit 1", "exec sleep 60"]
)
def test_a_queue_without_an_answer(squeue, monkeypatch, script: str) -> None:
    squeue(script)
    monkeypatch.setattr(queue, "SECONDS", 0.5)
    assert queue.queued_jobs(["1"]) is None


def test_no_slurm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert queue.queued_jobs(["1"]) is None
    assert queue.queued_jobs([]) == {}
