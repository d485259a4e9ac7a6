"""Cancellation of a sweep: its own jobs end, and no other."""

import subprocess
import sys
from pathlib import Path

import pytest
from slurm_commands import Command, printing, shown, stand_in
from sweep_files import write_run, write_sweep

from pcam_lightning.errors import InputError
from pcam_lightning.slurm.cancel import cancel
from pcam_lightning.slurm.jobs import job_states

QUEUE = "12_0|RUNNING|None|N/A|thin1\n12_1|PENDING|Priority|N/A|\n13_0|PENDING|Priority|N/A|"


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    command = stand_in(tmp_path / "bin", monkeypatch)
    command("squeue", printing(QUEUE))
    command("scancel", f"echo $* >> {tmp_path / 'cancelled'}")
    return command


def test_only_jobs_with_a_log_in_the_sweep_are_cancelled(slurm, tmp_path: Path) -> None:
    """On a real Slurm."""
    folder = tmp_path / "a sweep"
    places = (folder / ".submitit" / "job.log", tmp_path / "other.log")
    places[0].parent.mkdir(parents=True)
    ids = [
        subprocess.run(
            ["sbatch", "--parsable", "--hold", f"--output={place}", "--wrap=true"],
            capture_output=True, text=True, check=True,
        ).stdout.strip()
        for place in places
    ]  # fmt: skip
    write_sweep(folder, [{"job_id": job_id} for job_id in ids])
    assert [job.state for job in job_states(folder)] == ["queued", "queued"]
    try:
        assert [job.job_id for job in cancel(job_states(folder))] == ids[:1]
        assert [job.state for job in job_states(folder)] == ["cancelled", "queued"]
        assert not cancel(job_states(folder))
    finally:
        subprocess.run(["scancel", *ids], check=True)


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Jobs 12_0 and 12_1, which have not ended, and 12_2, which has finished."""
    folder = write_sweep(tmp_path / "a sweep", [{}, {}, {}])
    write_run(folder / "2", ["seed=2"])
    return folder


def test_jobs_that_have_not_ended_are_cancelled(fake: Command, sweep: Path) -> None:
    log = sweep / ".submitit" / "12_0" / "12_0_0_log.out"
    fake("scontrol", printing(shown("RUNNING", "JobId=20", StdOut=str(log))))
    assert [job.job_id for job in cancel(job_states(sweep))] == ["12_0", "12_1"]
    assert (sweep.parent / "cancelled").read_text() == "12_0 12_1\n"


# A stranger's sweep.json may name any job of the user.
@pytest.mark.parametrize("log", ["/other/.submitit/12_0.out", "{sweep}/../x.out", "{sweep}/x.out"])
def test_a_job_of_another_sweep_is_left_alone(fake: Command, sweep: Path, log: str) -> None:
    log = log.replace("{sweep}", str(sweep))
    fake("scontrol", printing(shown("RUNNING", "JobId=20", StdOut=log)))
    assert cancel(job_states(sweep)) == []
    assert not (sweep.parent / "cancelled").exists()


@pytest.mark.parametrize("silent", ["scontrol", "scancel"])
def test_a_slurm_that_rejects(fake: Command, sweep: Path, silent: str) -> None:
    log = sweep / ".submitit" / "12_0" / "12_0_0_log.out"
    fake("scontrol", printing(shown("RUNNING", "JobId=20", StdOut=str(log))))
    fake(silent, "echo no permission >&2; exit 1")
    with pytest.raises(InputError) as caught:
        cancel(job_states(sweep))
    assert str(sweep) in str(caught.value) and "\n" not in str(caught.value)


def test_nothing_is_left_to_cancel(fake: Command, tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "sweep", [{}])
    write_run(folder / "0", ["seed=0"])
    assert cancel(job_states(folder)) == []
    for jobs in ([], [{"job_id": None}]):
        assert cancel(job_states(write_sweep(tmp_path / "local", jobs, executor="local"))) == []


def test_local_jobs_are_processes_of_the_sweep(tmp_path: Path) -> None:
    """The id of a local job may belong to another process by now."""
    folder = tmp_path / "sweep"
    program = "import time; time.sleep(60)"
    words = [[], [str(folder / ".submitit" / "1")]]
    processes = [subprocess.Popen([sys.executable, "-c", program, *each]) for each in words]
    try:
        jobs = [{"job_id": str(process.pid)} for process in processes]
        write_sweep(folder, jobs, executor="local")
        assert [job.number for job in cancel(job_states(folder))] == [1]
        assert processes[1].wait(30) == -15 and processes[0].poll() is None
    finally:
        for process in processes:
            process.kill()
            process.wait()
