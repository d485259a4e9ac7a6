"""Tests of the live view: its content and its end."""

import dataclasses
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from sweep_files import write_run

from pcam_lightning.collect import watch as watching
from pcam_lightning.collect.watch import progress, watch
from pcam_lightning.runs import Run
from pcam_lightning.runs.process import process_mark
from pcam_lightning.slurm.jobs import job_states
from pcam_lightning.sweeps.jobs import JobState

HEADER = "epoch,step,train/loss,val/auroc\n"


@pytest.mark.parametrize(
    ("text", "epoch", "auroc", "loss"),
    [
        (HEADER + "0,9,0.7,\n0,9,,0.75\n1,12,0.65,\n", "2/5", "0.750", "0.650"),
        (HEADER + "0,9,0.7,\n0,9,,0.75\n1,12,0.6", "1/5", "0.750", "0.700"),
        (HEADER + "4,9,0.7,0.8\n5,9,,\n", "5/5", "0.800", "0.700"),
        (HEADER + "0,9\n", "1/5", "", ""),
        (HEADER + "0,9,x,0.5,7,8\n", "1/5", "0.500", ""),
        (HEADER, "", "", ""),
        ("epoch,st", "", "", ""),
        ("", "", "", ""),
        (None, "", "", ""),
    ],
)
def test_progress_of_incomplete_files(tmp_path: Path, text, epoch, auroc, loss) -> None:
    run = Run(write_run(tmp_path, ["seed=1"], state="running"))
    if text is not None:
        (tmp_path / "metrics.csv").write_text(text)
    found = progress(run)
    assert (found.epoch, found.auroc, found.loss) == (epoch, auroc, loss)


def test_elapsed_ends_with_the_run(tmp_path: Path) -> None:
    start, end = "2026-01-01T00:00:00+00:00", "2026-01-01T01:02:03.500+00:00"
    assert progress(Run(write_run(tmp_path, [], started=start, finished=end))).elapsed == "1:02:03"
    assert progress(None).elapsed == ""


@pytest.fixture
def story(tmp_path: Path):
    """Return a function that returns a job's next state at each call: queued, running, failed."""
    folder = tmp_path / "0"
    job = JobState(0, ("seed=[b]",), "queued", None, None, folder, tmp_path, "12_0")
    calls = 0

    def look() -> list[JobState]:
        nonlocal calls
        calls += 1
        if calls < 3:
            return [job]
        if calls == 3:
            write_run(folder, ["seed=1"], state="running")
        elif calls < 6:
            (folder / "metrics.csv").write_text(HEADER + "0,9,0.7,0.75\n")
        elif calls > 6:
            raise AssertionError("called after all jobs had ended")
        if calls == 6:
            return [dataclasses.replace(job, state="failed", error="out of memory")]
        return [dataclasses.replace(job, state="running")]

    return look


def test_a_line_for_each_change(story, capsys: pytest.CaptureFixture[str]) -> None:
    assert watch(story, 0.001) is True
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[:3] for line in lines] == [
        ["#0", "seed=[b]", "queued"],
        ["#0", "seed=[b]", "running"],
        ["#0", "seed=[b]", "running"],
        ["#0", "seed=[b]", "failed"],
    ]
    assert "epoch 1/5  val/auroc 0.750  train/loss 0.700" in lines[2]
    assert lines[3].endswith("out of memory")


def test_a_table_on_a_terminal(story, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    assert watch(story, 0.001) is True
    last = capsys.readouterr().out.rpartition("1 failed")[2]
    for word in ("seed=[b]", "failed", "1/5", "0.750", "0.700", "out of memory"):
        assert word in last


@pytest.mark.parametrize("terminal", [False, True])
def test_ctrl_c_ends_the_view(
    story, capsys, monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(watching, "time", SimpleNamespace(sleep=interrupt))
    assert watch(story, 1) is False
    assert "Traceback" not in capsys.readouterr().err


def test_the_view_waits_while_the_basic_launcher_lives(tmp_path: Path, monkeypatch) -> None:
    parent = os.getppid()
    alive = {"host": os.uname().nodename, "pid": parent, "process": process_mark(parent)}
    write_run(tmp_path / "0", ["seed=0"], **alive)
    sleeps = []

    def sleep(_: float) -> None:
        sleeps.append(1)
        if len(sleeps) == 2:
            path = tmp_path / "0" / "status.json"
            path.write_text(path.read_text().replace(str(alive["process"]), "gone"))

    monkeypatch.setattr(watching, "time", SimpleNamespace(sleep=sleep))
    assert watch(lambda: job_states(tmp_path), 1) is True
    assert len(sleeps) == 2


def test_the_view_waits_for_a_job_that_is_lost_for_a_moment(tmp_path: Path) -> None:
    job = JobState(0, (), "running", None, None, tmp_path / "0", tmp_path, "12")
    states = iter(["running", "lost", "running", "lost", "lost"])
    assert watch(lambda: [dataclasses.replace(job, state=next(states))], 0.001) is True
    assert list(states) == []
