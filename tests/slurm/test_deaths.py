"""Jobs that end in every way on a real Slurm, and the second start of their sweep."""

import csv
import subprocess
from pathlib import Path

import pytest
from slurm_sweeps import LIMIT, SMALL, jobs_of, start, wait_for

from pcam_lightning.runs import Run
from pcam_lightning.slurm.jobs import job_states

pytestmark = pytest.mark.usefixtures("slurm")
ENDS = {
    "none": "finished",
    "kill": "killed",
    "memory": "out_of_memory",
    "bug": "failed",
    "hang": "time_limit",
    "hang_2": "cancelled",  # while it runs
    "hang_3": "cancelled",  # before it begins
}


@pytest.mark.slow
def test_each_death_has_its_name_and_only_the_dead_run_again(
    pcam_root: Path, tmp_path: Path
) -> None:
    """The launcher, `collect` and `job_states` agree; after the second start all weights agree.

    The jobs differ in nothing that changes weights.
    """
    folder, well = tmp_path / "a sweep, 100%", tmp_path / "well"
    hows = ",".join(ENDS)
    words = [
        *SMALL, "trainer.max_epochs=2", f"data.root={pcam_root}", "seed=1", "preflight=false",
        "+callbacks.die._target_=job_callbacks.DieUntil", f"+callbacks.die.until={well}",
        "--multirun", f"hydra.sweep.dir='{folder}'", "hydra/launcher=submitit_slurm",
        f"+callbacks.die.how={hows}", "hydra.launcher.mem_gb=2", "hydra.launcher.max_num_timeout=0",
        "hydra.launcher.array_parallelism=6", "hydra.launcher.signal_delay_s=5",
    ]  # fmt: skip
    first = start(*words, "hydra.launcher.timeout_min=00:02:00")
    wait_for((folder / "sweep.json").exists, first)
    jobs = jobs_of(folder)
    subprocess.run(["scancel", jobs[6]["job_id"]], check=True)
    wait_for((folder / "5" / "status.json").exists, first)
    subprocess.run(["scancel", jobs[5]["job_id"]], check=True)
    out, err = first.communicate(timeout=LIMIT)
    assert first.returncode == 1, out + err
    expected = list(ENDS.values())
    states = job_states(folder)
    assert [job.state for job in states] == expected, out
    for job in states[1:]:
        assert job.error
        lines = [each for each in out.splitlines() if each.startswith(f"#{job.number} ")]
        assert f": {job.state}: {job.error}" in lines[-1]
    assert "hydra.launcher.mem_gb=" in str(states[2].error)
    assert "hydra.launcher.timeout_min=4" in str(states[4].error)
    forgotten = job_states(folder, lambda _: {}, lambda _: {})  # by Slurm
    assert [(job.state, job.error) for job in forgotten] == [(j.state, j.error) for j in states]
    began = Run(folder / "0").manifest["started"]

    well.touch()
    second = start(*words, "hydra.launcher.timeout_min=10")
    out, err = second.communicate(timeout=LIMIT)
    assert second.returncode == 0, out + err
    assert "submitted 6 jobs" in out
    assert Run(folder / "0").manifest["started"] == began
    assert jobs_of(folder)[0] == jobs[0]
    runs = [Run(folder / str(number)) for number in range(len(ENDS))]
    assert {run.summary["weights_digest"] for run in runs} == {runs[0].summary["weights_digest"]}
    assert {run.manifest["snapshot"]["digest"] for run in runs} == {
        runs[0].manifest["snapshot"]["digest"]
    }
    line = next(each for each in out.splitlines() if each.startswith("look again: "))
    collect = line.removeprefix("look again: python -m ").removesuffix(" watch=true")
    done = subprocess.run(
        ["bash", "-c", f"python -m {collect} hydra.run.dir='{tmp_path / 'collected'}'"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    with (tmp_path / "collected" / "runs.csv").open() as table:
        assert [row["state"] for row in csv.DictReader(table)] == ["finished"] * len(ENDS)
