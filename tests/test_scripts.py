"""The shell scripts, whose Slurm jobs request the same resources as the launchers."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from pcam_lightning.cli import plugins
from pcam_lightning.cli.command import CONF
from pcam_lightning.data.demo.generate import DemoOptions, ensure_demo

REPOSITORY = Path(__file__).parents[1]
SCRIPTS = [
    *sorted((REPOSITORY / "scripts").glob("*.sh")),
    *sorted((REPOSITORY / "scripts").glob("*.sbatch")),
    REPOSITORY / ".ci" / "run",
]
JOBS = {
    "train": ("train", "slurm_gpu"),
    "sweep": ("train", "slurm_gpu"),
    "benchmark_gpu": ("benchmark", "slurm_gpu"),
    "benchmark_cpu": ("benchmark", "slurm_cpu"),
}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_has_valid_syntax(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", "--shell=bash", script], check=True)


@pytest.mark.slow
def test_the_coverage_of_intervals_is_a_table() -> None:
    script = [sys.executable, REPOSITORY / "scripts" / "interval_coverage.py", "--samples", "5"]
    lines = subprocess.run(script, check=True, capture_output=True, text=True).stdout.splitlines()
    rows = [
        line.strip("| ").split(" | ") for line in lines if re.match(r"\| (\d|none|weak|str)", line)
    ]
    assert len(rows) == 9
    assert all(0 <= float(cell) <= 1 for row in rows for cell in row[1:])


def test_the_recall_of_near_duplicates_is_a_table(tmp_path: Path) -> None:
    root = ensure_demo(tmp_path, DemoOptions(train=64, valid=16, test=16))
    script = [sys.executable, REPOSITORY / "scripts" / "near_duplicate_recall.py", root, "8"]
    lines = subprocess.run(script, check=True, capture_output=True, text=True).stdout.splitlines()
    shares = [float(line.split(" | ")[1].rstrip("% |")) for line in lines if "%" in line[-5:]]
    assert len(shares) == 11 and min(shares) > 80


def test_every_job_script_is_compared() -> None:
    assert {path.stem for path in SCRIPTS if path.suffix == ".sbatch"} == set(JOBS)


@pytest.mark.parametrize("name", JOBS)
def test_a_job_script_requests_the_launchers_resources(name: str) -> None:
    command, choice = JOBS[name]
    asked, wanted = header(REPOSITORY / "scripts" / f"{name}.sbatch"), launcher(command, choice)
    assert asked["job-name"] == wanted["name"]
    assert asked["partition"] == wanted["partition"]
    assert int(asked["nodes"]) == wanted["nodes"]
    assert int(asked["ntasks-per-node"]) == wanted["tasks_per_node"]
    assert int(asked["cpus-per-task"]) == wanted["cpus_per_task"]
    assert int(asked.get("gpus-per-node", 0)) == (wanted["gpus_per_node"] or 0)
    assert asked.get("mem") == wanted["mem_gb"]
    assert asked.get("account") == wanted["account"]
    assert int(asked["time"]) == wanted["timeout_min"]
    if command == "train":  # a benchmark has nothing to save
        assert asked["signal"] == f"USR2@{wanted['signal_delay_s']}"


def header(path: Path) -> dict[str, str]:
    """Return the options on a job script's #SBATCH lines."""
    return dict(re.findall(r"^#SBATCH --([a-z-]+)=?(.*)$", path.read_text(), re.MULTILINE))


def launcher(command: str, choice: str) -> dict[str, Any]:
    """Return the parameters of `hydra/launcher=CHOICE cluster=snellius`."""
    plugins.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose(
            command, ["cluster=snellius", f"hydra/launcher={choice}"], return_hydra_config=True
        )
    OmegaConf.set_struct(cfg, False)
    names = ("partition", "nodes", "tasks_per_node", "cpus_per_task", "gpus_per_node", "mem_gb")
    names += ("name", "account", "timeout_min", "signal_delay_s")
    return {name: cfg.hydra.launcher[name] for name in names}
