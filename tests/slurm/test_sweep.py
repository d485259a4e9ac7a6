"""Sweeps on a real Slurm: submission, failure, requeue."""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from slurm_sweeps import LIMIT, SMALL, jobs_of, start, wait_for

from pcam_lightning.cli.command import CONF
from pcam_lightning.runs import Run
from pcam_lightning.slurm.jobs import job_states
from pcam_lightning.slurm.limits import largest_array

pytestmark = pytest.mark.usefixtures("slurm")


def sweep(root: Path, folder: Path, *overrides: str, code: int = 0) -> tuple[str, str]:
    process = start(
        *SMALL, f"data.root={root}", "--multirun", f"hydra.sweep.dir={folder}", *overrides
    )
    out, err = process.communicate(timeout=LIMIT)
    assert process.returncode == code, out + err
    return out, err


def slurm_state(job_id: str) -> str:
    """Return Slurm's state and exit code of an ended job, such as `FAILED 1:0`."""
    for _ in range(50):
        shown = subprocess.run(
            ["scontrol", "--oneliner", "show", "job", job_id], capture_output=True, text=True
        ).stdout
        state, code = re.findall(r"\bJobState=(\S+)|\bExitCode=(\S+)", shown)[:2]
        if state[0] not in ("RUNNING", "COMPLETING"):
            return f"{state[0]} {code[1]}"
        time.sleep(0.2)
    return "RUNNING"


def queue() -> str:
    """Return the ids of all queued jobs, with the paths of their logs."""
    asked = ["squeue", "--noheader", "--array", "--Format=JobID,STDOUT:500"]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout


@pytest.mark.xdist_group("slurm")  # begins early, since it waits most of its time
def test_three_seeds_are_three_jobs(pcam_root: Path, tmp_path: Path) -> None:
    """The spelling with a dash becomes the other one, which the other tests have."""
    folder = tmp_path / "sweep"
    words = ("trainer.max_epochs=1", f"data.root={pcam_root}", f"hydra.sweep.dir={folder}")
    process = start(*SMALL, *words, "--multirun", "seed=1,2,3", "-hydra/launcher=submitit_slurm")
    out, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, out + err
    assert "submitted 3 jobs" in out and "#2 seed=3: finished" in out
    assert [line.split()[0] for line in err.splitlines()] == ["hint:"]
    jobs = jobs_of(folder)
    assert [job["overrides"][-1] for job in jobs] == ["seed=1", "seed=2", "seed=3"]
    digests = set()
    for number, job in enumerate(jobs):
        run = Run(folder / job["folder"])
        assert run.state == "finished" and run.manifest["seed"] == number + 1
        array, index = job["job_id"].split("_")
        slurm = run.manifest["slurm"]
        assert (slurm["array_job_id"], slurm["array_task_id"]) == (int(array), int(index))
        assert slurm["partition"] == "thin_course" and slurm["node"].startswith("thin")
        assert slurm_state(job["job_id"]) == "COMPLETED 0:0"
        assert (folder / job["log"]).is_file()
        digests.add(run.summary["weights_digest"])
    assert len(digests) == 3


@pytest.mark.slow
def test_a_time_limit_and_a_requeue_lose_nothing(command, pcam_root: Path, tmp_path: Path) -> None:
    """The time limit stops the first attempt, `scontrol requeue` a later one.

    Until then each attempt is too slow to finish: 45 steps take 90 s.
    """
    long = ("trainer.max_epochs=15", "model.dropout=0.3", "scheduler=plateau")
    long += ("callbacks.early_stopping=null", f"data.root={pcam_root}", "seed=42")
    fast, folder = tmp_path / "fast", tmp_path / "sweep"
    process = start(
        *SMALL,
        *long,
        "+callbacks.slow._target_=job_callbacks.SlowSteps",
        "+callbacks.slow.seconds=2",
        f"+callbacks.slow.until={fast}",
        "--multirun",
        f"hydra.sweep.dir={folder}",
        "hydra/launcher=submitit_slurm",
        "hydra.launcher.timeout_min=2",  # with the delay: a signal 60 to 90 s after the start
        "hydra.launcher.signal_delay_s=30",
    )
    code, out, err = command(*SMALL, *long, "hydra.run.dir=whole")  # meanwhile
    assert code == 0, out + err
    whole = Run("whole")
    last = folder / "0" / "checkpoints" / "last.ckpt"

    def is_resumed() -> bool:
        if not last.exists():
            return False
        run = Run(folder / "0")
        return run.status["attempt"] >= 2 and run.state == "running"

    wait_for(is_resumed, process)
    subprocess.run(["scontrol", "requeue", jobs_of(folder)[0]["job_id"]], check=True)
    fast.touch()
    out, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, out + err
    run = Run(folder / "0")
    assert run.state == "finished"
    assert run.status["attempt"] >= 3 and run.manifest["slurm"]["restarts"] >= 2
    assert run.summary["weights_digest"] == whole.summary["weights_digest"]
    assert run.summary["test"] == whole.summary["test"]
    assert run.gradients["norm"].equals(whole.gradients["norm"])


@pytest.mark.xdist_group("slurm")
def test_failed_jobs_do_not_stop_the_others(pcam_root: Path, tmp_path: Path) -> None:
    """One job finishes, one has a bug, two have damaged data."""
    damaged = shutil.copytree(pcam_root, tmp_path / "damaged")
    next(damaged.glob("*train_x.h5")).write_bytes(b"no HDF5")
    folder = tmp_path / "sweep"
    out, _ = sweep(
        pcam_root,
        folder,
        "trainer.max_epochs=1",
        f"data.root={pcam_root},{damaged}",
        "+callbacks.bug=null,{_target_:job_callbacks.Failing}",
        "hydra/launcher=submitit_slurm",
        "preflight=false",
        code=1,
    )
    runs = [Run(folder / str(number)) for number in range(4)]
    assert [run.state for run in runs] == ["finished", "failed", "failed", "failed"]
    jobs = jobs_of(folder)
    ends = [slurm_state(job["job_id"]) for job in jobs]
    assert ends == ["COMPLETED 0:0", "FAILED 1:0", "FAILED 2:0", "FAILED 2:0"]
    logs = [(folder / job["log"]).read_text() for job in jobs]
    assert "Traceback" in logs[1] and "RuntimeError: planted" in logs[1]
    assert runs[1].status["error"]["text"] == "planted"
    assert "error: " in logs[2] and "Traceback" not in logs[2]
    line = next(line for line in out.splitlines() if line.startswith("#2 ") and "failed:" in line)
    assert "train_x.h5" in line and "log:" in line


@pytest.mark.slow
def test_a_job_runs_the_submitted_config(
    pcam_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later edit of a config file, or a job's lack of a variable, changes nothing."""
    monkeypatch.setenv("PCAM_ROOT", str(pcam_root))
    monkeypatch.setenv("SBATCH_EXPORT", "PATH,PYTHONPATH,OMP_NUM_THREADS")
    folder, rate = tmp_path / "sweep", tmp_path / "conf" / "optimizer" / "mine.yaml"
    rate.parent.mkdir(parents=True)
    rate.write_text("defaults: [adam]\nlr: 0.25\n")
    process = start(
        *SMALL, "trainer.max_epochs=1", f"--config-dir={tmp_path / 'conf'}", "optimizer=mine",
        "--multirun", "seed=1,2", f"hydra.sweep.dir={folder}", "hydra/launcher=submitit_slurm",
        "hydra.sweep.subdir='${hydra.job.id}/seed_${seed}'",
        "+hydra.launcher.additional_parameters={begin:now+1hour}",
    )  # fmt: skip
    wait_for((folder / "sweep.json").exists, process)
    rate.write_text("no: optimizer\n")
    array = jobs_of(folder)[0]["job_id"].partition("_")[0]
    subprocess.run(["scontrol", "update", f"JobId={array}", "StartTime=now"], check=True)
    out, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, out + err
    for seed, job in enumerate(jobs_of(folder), start=1):
        assert job["folder"] == f"{job['job_id']}/seed_{seed}"
        run = Run(folder / job["folder"])
        assert run.state == "finished" and run.manifest["seed"] == seed
        assert run.manifest["dataset"]["root"] == str(pcam_root)
        assert run.manifest["environment"]["PCAM_ROOT"] is None
        assert run.manifest["config"]["optimizer"]["lr"] == 0.25
    assert [job.state for job in job_states(folder)] == ["finished"] * 2


def test_slurm_accepts_the_largest_array_and_rejects_a_larger_one(tmp_path: Path) -> None:
    shown = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True).stdout
    largest = int(re.findall(r"MaxArraySize\s*=\s*(\d+)", shown)[0])
    script = tmp_path / "job.sh"
    script.write_text("#!/bin/sh\ntrue\n")
    for jobs in (largest, largest + 1):
        words = ["sbatch", "--parsable", "--hold", f"--array=0-{jobs - 1}", "--output=/dev/null"]
        done = subprocess.run([*words, str(script)], capture_output=True, text=True)
        if done.returncode == 0:
            subprocess.run(["scancel", done.stdout.strip()], check=True)
        assert (done.returncode == 0) == (jobs <= largest)
    assert largest_array() == largest


@pytest.mark.slow
def test_two_ranks_train_once(pcam_root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    sweep(
        pcam_root,
        folder,
        "trainer=ddp",
        "trainer.accelerator=cpu",
        "trainer.max_epochs=1",
        "data.batch_size=8",
        "hydra/launcher=submitit_slurm",
        "hydra.launcher.tasks_per_node=2",
        "seed=1",
    )
    run = Run(folder / "0")
    assert run.state == "finished" and run.status["attempt"] == 1
    assert run.manifest["determinism"]["ranks"] == 2 and run.manifest["slurm"]["tasks"] == 2
    assert len(run.gradients) == 48 // 16
    assert run.predictions("test")["row"].tolist() == list(range(20))


@pytest.mark.slow
def test_a_sweep_from_inside_a_job(pcam_root: Path, tmp_path: Path) -> None:
    folder, script = tmp_path / "sweep", tmp_path / "outer.sh"
    words = [sys.executable, "-m", "pcam_lightning.train", *SMALL, f"data.root={pcam_root}"]
    words += ["trainer.max_epochs=1", "--multirun", "seed=1,2", f"hydra.sweep.dir={folder}"]
    words += ["hydra/launcher=submitit_slurm"]
    script.write_text("#!/bin/bash\n" + " ".join(f"'{word}'" for word in words) + "\n")
    subprocess.run(
        ["sbatch", "--wait", "--array=0", "--mem=2000", f"--output={tmp_path}/outer.log", script],
        check=True,
        timeout=LIMIT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    jobs = jobs_of(folder)
    assert [Run(folder / job["folder"]).state for job in jobs] == ["finished"] * 2
    assert len({job["job_id"].split("_")[0] for job in jobs}) == 1


@pytest.mark.parametrize(
    ("override", "start"),
    [
        ("hydra.launcher.mem_gb=9000G", "hydra.launcher.mem_gb=9000: partition thin_course has"),
        ("hydra.launcher.timeout_min=99999999", "hydra.launcher.timeout_min=99999999: "),
    ],
)
def test_a_request_that_slurm_rejects_is_not_queued(
    command, pcam_root: Path, tmp_path: Path, override: str, start: str
) -> None:
    where = (f"data.root={pcam_root}", f"hydra.sweep.dir={tmp_path / 'sweep'}")
    jobs = ("--multirun", "seed=1,2", "hydra/launcher=submitit_slurm")
    code, out, err = command(*SMALL, *where, *jobs, override)
    assert code == 2, out + err
    assert err.startswith(f"error: {start}") and err.count("\n") == 1, err
    assert str(tmp_path) not in queue()
    assert not (tmp_path / "sweep" / "sweep.json").exists()


def test_every_problem_has_its_line(command, tmp_path: Path) -> None:
    code, _, err = command(
        *SMALL,
        "data.root=nowhere",
        f"hydra.sweep.dir={tmp_path / 'sweep'}",
        "--multirun",
        "optimizer.lr=-1,0.1",
        "hydra/launcher=submitit_slurm",
        "hydra.launcher.partition=fat",
        "hydra.launcher.timeout_min=1",
    )
    assert code == 2
    assert [line.split(": ")[1] for line in err.splitlines()] == [
        "optimizer.lr=-1",
        "data.root=nowhere",
        "hydra.launcher.timeout_min=1",
        "hydra.launcher.partition=fat",
    ]


@pytest.mark.slow
def test_many_jobs_come_back(tmp_path: Path) -> None:
    app = Path(__file__).with_name("tiny_app.py")
    words = ["--multirun", "number=range(30)", "hydra/launcher=submitit_slurm"]
    words += [f"hydra.sweep.dir={tmp_path / 'sweep'}", "hydra.launcher.cpus_per_task=1"]
    done = subprocess.run(
        [sys.executable, app, *words],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        env=os.environ | {"PCAM_CONF": str(CONF)},
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    written = [(tmp_path / "sweep" / str(n) / "number.txt").read_text() for n in range(30)]
    assert written == [str(n) for n in range(30)]
    assert len({job["job_id"].split("_")[0] for job in jobs_of(tmp_path / "sweep")}) == 1
