import json
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata

import pytest

from pcam_lightning.files import write_json
from pcam_lightning.runs.manifest import collect_manifest, environment_text, read_slurm

DATASET = {"name": "demo", "root": "data/demo", "fingerprint": "abc"}


@pytest.fixture(autouse=True)
def outside_slurm(monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)


def test_the_manifest_reads_back_and_names_what_made_the_run(tmp_path):
    manifest = collect_manifest(command=["train", "seed=3"], seed=3, dataset=DATASET)
    write_json(tmp_path / "manifest.json", manifest)
    back = json.loads((tmp_path / "manifest.json").read_text())
    assert back == manifest
    assert (back["command"], back["seed"], back["dataset"]) == (["train", "seed=3"], 3, DATASET)
    assert back["python"] == {"version": platform.python_version(), "executable": sys.executable}
    assert back["packages"]["torch"] == metadata.version("torch")
    assert back["slurm"] is None and "config" not in back
    age = datetime.now(UTC) - datetime.fromisoformat(back["started"])
    assert 0 <= age.total_seconds() < 60


def test_a_config_is_kept_when_given():
    manifest = collect_manifest(command=[], seed=None, dataset=DATASET, config={"lr": 0.1})
    assert manifest["config"] == {"lr": 0.1}


def test_secrets_stay_out(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "hunter2")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    command = ["train", "logger.api_key=hunter2", "+hub.token=hunter2", "model.tokens=8"]
    manifest = collect_manifest(command=command, seed=0, dataset=DATASET)
    assert "hunter2" not in json.dumps(manifest)
    assert manifest["command"] == [
        "train",
        "logger.api_key=***",
        "+hub.token=***",
        "model.tokens=8",
    ]
    assert manifest["environment"]["OMP_NUM_THREADS"] == "4"


def test_facts_of_a_slurm_job(monkeypatch):
    for name, value in {
        "SLURM_JOB_ID": "4711",
        "SLURM_ARRAY_JOB_ID": "4700",
        "SLURM_ARRAY_TASK_ID": "11",
        "SLURM_JOB_PARTITION": "gpu",
        "SLURM_JOB_NODELIST": "node[01-02]",
        "SLURMD_NODENAME": "node01",
        "SLURM_NTASKS": "2",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    expected = {
        "job_id": 4711,
        "array_job_id": 4700,
        "array_task_id": 11,
        "partition": "gpu",
        "node_list": "node[01-02]",
        "node": "node01",
        "tasks": 2,
        "restarts": 0,
    }
    assert read_slurm() == expected
    monkeypatch.setenv("SLURM_RESTART_COUNT", "3")
    assert read_slurm() == expected | {"restarts": 3}


def test_the_environment_lists_every_package_once_in_order():
    lines = environment_text().splitlines()
    assert f"numpy=={metadata.version('numpy')}" in lines
    names = [line.partition("==")[0].lower().replace("_", "-").replace(".", "-") for line in lines]
    assert names == sorted(set(names))


def test_importing_the_room_loads_nothing_heavy():
    code = (
        "import sys, pcam_lightning.runs\n"
        "import pcam_lightning.plots.history, pcam_lightning.runs.manifest\n"
        "print(*{'torch', 'pandas', 'numpy', 'matplotlib', 'yaml', 'hydra'} & set(sys.modules))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (answer.returncode, answer.stdout.strip()) == (0, "")
