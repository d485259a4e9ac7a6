"""Sweeps on a real Slurm: they are submitted, requeued, fail and come back as a user sees it."""

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
from pcam_lightning.runs.status import RunFileError
from pcam_lightning.slurm.jobs import job_states
from pcam_lightning.slurm.preflight import array_problems

pytestmark = pytest.mark.usefixtures("slurm")


def sweep(root: Path, folder: Path, *overrides: str, code: int = 0) -> tuple[str, str]:
    process = start(
        *SMALL, f"data.root={root}", "--multirun", f"hydra.sweep.dir={folder}", *overrides
    )
    out, err = process.communicate(timeout=LIMIT)
    assert process.returncode == code, out + err
    return out, err


def slurm_state(job_id: str) -> str:
    """What Slurm itself says of a job, once it is over, as `FAILED 1:0`."""
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
    """Job ids and where their logs go."""
    asked = ["squeue", "--noheader", "--array", "--Format=JobID,STDOUT:500"]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout


def test_three_seeds_are_three_jobs_however_the_launcher_is_spelled(
    pcam_root: Path, tmp_path: Path
) -> None:
    processes = {}
    for place, launcher in enumerate(("hydra/launcher", "-hydra/launcher")):
        folder = tmp_path / str(place)
        words = ("trainer.max_epochs=1", "--multirun", "seed=1,2,3", f"{launcher}=submitit_slurm")
        where = f"hydra.sweep.dir={folder}"
        processes[folder] = start(*SMALL, f"data.root={pcam_root}", where, *words)
    digests = set()
    for folder, process in processes.items():
        out, err = process.communicate(timeout=LIMIT)
        assert process.returncode == 0, out + err
        assert "submitted 3 jobs" in out and "#2 seed=3: finished" in out
        assert [line.split()[0] for line in err.splitlines()] == ["hint:"] * int(folder.name)
        jobs = jobs_of(folder)
        assert [job["overrides"][-1] for job in jobs] == ["seed=1", "seed=2", "seed=3"]
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


def undisturbed(root: Path, folder: Path, *overrides: str) -> Run:
    process = start(*SMALL, f"data.root={root}", f"hydra.run.dir={folder}", *overrides)
    out, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, out + err
    return Run(folder)


def test_a_time_limit_and_a_requeue_lose_nothing(pcam_root: Path, tmp_path: Path) -> None:
    long = ("trainer.max_epochs=25", "model.dropout=0.3", "scheduler=plateau")
    long += ("callbacks.early_stopping=null",)
    slow = ("+callbacks.slow._target_=job_callbacks.SlowSteps", "+callbacks.slow.seconds=0.6")
    whole = undisturbed(pcam_root, tmp_path / "whole", *long)
    folder = tmp_path / "sweep"
    process = start(
        *SMALL,
        *long,
        *slow,
        f"data.root={pcam_root}",
        "--multirun",
        "seed=42",
        f"hydra.sweep.dir={folder}",
        "hydra/launcher=submitit_slurm",
        "hydra.launcher.timeout_min=1",
        "hydra.launcher.signal_delay_s=20",
    )
    wait_for(lambda: (folder / "0" / "checkpoints" / "last.ckpt").exists(), process)
    subprocess.run(["scontrol", "requeue", jobs_of(folder)[0]["job_id"]], check=True)
    out, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, out + err
    run = Run(folder / "0")
    assert run.state == "finished"
    # One requeue by hand, at least one by the time limit: 75 steps take longer than the 40 seconds
    # after which the signal comes at the latest.
    assert run.status["attempt"] >= 3 and run.manifest["slurm"]["restarts"] >= 2
    assert run.summary["weights_digest"] == whole.summary["weights_digest"]
    assert run.summary["test"] == whole.summary["test"]
    assert run.gradients["norm"].equals(whole.gradients["norm"])


def test_one_of_three_fails(pcam_root: Path, tmp_path: Path) -> None:
    damaged = shutil.copytree(pcam_root, tmp_path / "damaged")
    next(damaged.glob("*train_x.h5")).write_bytes(b"no HDF5")
    folder = tmp_path / "sweep"
    process = start(
        *SMALL,
        "trainer.max_epochs=1",
        f"data.root={pcam_root},{damaged},{pcam_root}/",
        "--multirun",
        f"hydra.sweep.dir={folder}",
        "hydra/launcher=submitit_slurm",
        "preflight=false",
    )
    out, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 1, out + err
    states = [Run(folder / str(number)).state for number in range(3)]
    assert states == ["finished", "failed", "finished"]
    line = next(line for line in out.splitlines() if "failed:" in line)
    assert line.startswith("#1 ") and "train_x.h5" in line and "log:" in line
    failed = jobs_of(folder)[1]
    assert slurm_state(failed["job_id"]) == "FAILED 2:0"
    assert "error: " in (folder / failed["log"]).read_text()


def test_a_bug_leaves_its_traceback_in_its_log(pcam_root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    sweep(
        pcam_root,
        folder,
        "seed=1",
        "hydra/launcher=submitit_slurm",
        "+callbacks.bug._target_=job_callbacks.Failing",
        code=1,
    )
    job = jobs_of(folder)[0]
    assert slurm_state(job["job_id"]) == "FAILED 1:0"
    log = (folder / job["log"]).read_text()
    assert "Traceback" in log and "RuntimeError: planted" in log
    assert Run(folder / "0").status["error"]["text"] == "planted"


def test_a_job_runs_what_was_submitted(
    pcam_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An edit of a config file, and an environment that jobs do not get, change nothing."""
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


def test_an_array_as_large_as_slurm_takes(tmp_path: Path) -> None:
    """Slurm's own answer to the largest array that preflight lets through, and to a larger one."""
    shown = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True).stdout
    largest = int(re.findall(r"MaxArraySize\s*=\s*(\d+)", shown)[0])
    script = tmp_path / "job.sh"
    script.write_text("#!/bin/sh\ntrue\n")
    for jobs in (largest, largest + 1):
        words = ["sbatch", "--parsable", "--hold", f"--array=0-{jobs - 1}", "--output=/dev/null"]
        done = subprocess.run([*words, str(script)], capture_output=True, text=True)
        if done.returncode == 0:
            subprocess.run(["scancel", done.stdout.strip()], check=True)
        assert (done.returncode == 0) == (jobs <= largest) == (not array_problems(jobs))


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


def test_a_cancelled_job_does_not_hold_up_the_others(pcam_root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    process = start(
        *SMALL,
        "trainer.max_epochs=1",
        f"data.root={pcam_root}",
        "--multirun",
        "seed=1,2",
        f"hydra.sweep.dir={folder}",
        "hydra/launcher=submitit_slurm",
        "hydra.launcher.array_parallelism=1",
    )
    wait_for(lambda: (folder / "sweep.json").exists(), process)
    subprocess.run(["scancel", jobs_of(folder)[1]["job_id"]], check=True)
    out, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 1, out + err
    assert "#0 seed=1: finished" in out and "#1 seed=2: failed" in out
    with pytest.raises(RunFileError):
        Run(folder / "1")


def test_a_sweep_does_not_start_again_while_its_jobs_wait(pcam_root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    words = [*SMALL, f"data.root={pcam_root}", "--multirun", f"hydra.sweep.dir={folder}"]
    words += ["seed=1,2", "hydra/launcher=submitit_slurm"]
    killed = start(*words, "+hydra.launcher.additional_parameters={begin:now+1hour}")
    wait_for((folder / "sweep.json").exists, killed)
    killed.kill()
    killed.communicate()
    array = jobs_of(folder)[0]["job_id"].partition("_")[0]
    try:
        _, err = (again := start(*words)).communicate(timeout=LIMIT)
    finally:
        subprocess.run(["scancel", array], check=True)
    assert again.returncode == 2 and err.count("\n") == 1, err
    assert f"2 jobs of an earlier start have not ended, the first is {array}_0 (queued)" in err


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


PREFLIGHT = {
    "an unknown partition": (["hydra.launcher.partition=fat"], "partition=fat: expected one of"),
    "more CPUs than a node has": (["hydra.launcher.cpus_per_task=900"], "Slurm refuses"),
    "more memory than a node has": (["hydra.launcher.mem_gb=9000"], "Slurm refuses"),
    "a GPU on the CPU partition": (["hydra.launcher.gpus_per_node=1"], "Slurm refuses"),
    "more nodes than there are": (
        ["hydra.launcher.nodes=9", "trainer.num_nodes=9"],
        "Slurm refuses",
    ),
    "longer than allowed": (["hydra.launcher.timeout_min=99999999"], "minutes at most"),
    "a limit that is over at once": (["hydra.launcher.timeout_min=2"], "would come at once"),
    "two tasks for one device": (["hydra.launcher.tasks_per_node=2"], "tasks_per_node=2: expected"),
    "a GPU nobody asked for": (["trainer.accelerator=gpu"], "the job asks for no GPU"),
    "missing files": (["data.root=nowhere"], "data.root=nowhere: "),
    "a batch larger than the data": (["data.batch_size=49"], "more than the 48 training patches"),
    "a key that is none": (["optimizer.lrr=1"], "no such key"),
    "a value out of range": (["optimizer.lr=-1"], "optimizer.lr=-1: expected"),
    "a class that is none": (["model._target_=torch.nn.Nothing"], "cannot be imported"),
    "one folder for all": (["hydra.sweep.subdir=one"], "2 jobs would write to"),
    "a folder outside of the sweep": (["hydra.sweep.subdir=../x"], "sweep.subdir=../x: expected"),
    "a checkpoint that is none": (["ckpt_path=none.ckpt"], "ckpt_path=none.ckpt: no such file"),
}


@pytest.mark.parametrize("fault", PREFLIGHT)
def test_what_would_fail_is_not_queued(
    command, pcam_root: Path, tmp_path: Path, fault: str
) -> None:
    overrides, said = PREFLIGHT[fault]
    code, out, err = command(
        *SMALL,
        f"data.root={pcam_root}",
        f"hydra.sweep.dir={tmp_path / 'sweep'}",
        "--multirun",
        "seed=1,2",
        "hydra/launcher=submitit_slurm",
        *overrides,
    )
    assert code == 2, out + err
    assert err.startswith("error: ") and err.count("\n") == 1, err
    assert said in err
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
    for said in ("optimizer.lr=-1", "data.root=nowhere", "partition=fat", "would come at once"):
        assert sum(said in line for line in err.splitlines()) == 1


def test_a_hundred_jobs_come_back(tmp_path: Path) -> None:
    app = Path(__file__).with_name("tiny_app.py")
    words = ["--multirun", "number=range(100)", "hydra/launcher=submitit_slurm"]
    words += [f"hydra.sweep.dir={tmp_path / 'sweep'}", "hydra.launcher.cpus_per_task=1"]
    done = subprocess.run(
        [sys.executable, app, *words],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        env=os.environ | {"PCAM_CONF": str(CONF)},
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    written = [(tmp_path / "sweep" / str(n) / "number.txt").read_text() for n in range(100)]
    assert written == [str(n) for n in range(100)]
    assert len({job["job_id"].split("_")[0] for job in jobs_of(tmp_path / "sweep")}) == 1
