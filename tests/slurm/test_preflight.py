"""Preflight checks that need no answer of Slurm."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import OmegaConf
from slurm_sweeps import SMALL
from weight_files import write_repository

from pcam_lightning.cli import plugins
from pcam_lightning.config.compose import CONF
from pcam_lightning.errors import PreflightError
from pcam_lightning.slurm import preflight
from pcam_lightning.slurm.hydra_private import SweepLoader
from pcam_lightning.slurm.job_config import compose

Problems = Callable[..., list[str]]


@pytest.fixture
def problems(pcam_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Problems:
    """Return a function from overrides to the problems of a sweep over two seeds."""
    plugins.register()
    monkeypatch.setattr(preflight, "_slurm_problems", lambda *_: [])
    sweep = tmp_path / "sweep"

    def check(*overrides: str) -> list[str]:
        own = [each for each in overrides if each.startswith("hydra")]
        small = SMALL[:1] + SMALL[2:] if "model=timm" in overrides else SMALL
        given = [*small, f"data.root={pcam_root}", *(each for each in overrides if each not in own)]
        own = ["hydra/launcher=submitit_slurm", f"hydra.sweep.dir={sweep}", *own]
        with initialize_config_dir(str(CONF), version_base="1.3"):
            loader = GlobalHydra.instance().config_loader()
            master = loader.load_configuration("train", own, RunMode.MULTIRUN)
        jobs = SweepLoader(loader, master)
        configs = [compose(jobs, [*given, f"seed={n}"], n).checked for n in range(2)]
        resources: Any = OmegaConf.to_container(master.hydra.launcher, resolve=True)
        try:
            preflight.check(configs, resources, None)
        except PreflightError as error:
            return error.problems
        return []

    return check


def test_a_sound_sweep_has_no_problem(problems: Problems) -> None:
    assert problems() == []


@pytest.mark.parametrize(
    ("overrides", "start"),
    [
        (["hydra.launcher.timeout_min=2"], "hydra.launcher.timeout_min=2: "),
        (["hydra.launcher.tasks_per_node=2"], "trainer.devices=1, hydra.launcher.tasks_per_node=2"),
        (["hydra.launcher.nodes=2"], "trainer.num_nodes=1, hydra.launcher.nodes=2: "),
        (["trainer.accelerator=gpu"], "trainer.accelerator=gpu: the job asks for no GPU"),
        (
            ["trainer.devices=2"]
            + [f"hydra.launcher.{key}" for key in ("tasks_per_node=2", "gpus_per_node=1")],
            "hydra.launcher.gpus_per_node=1: expected 2",
        ),
        (["hydra.sweep.subdir=one"], "hydra.sweep.subdir: 2 jobs would write to "),
        (["data.root=nowhere"], "data.root=nowhere: "),
        (["data.batch_size=49"], "data.batch_size=49: more than the 48 training patches"),
        (["optimizer.lr=-1"], "optimizer.lr=-1: expected greater than 0"),
        (["model._target_=torch.nn.Nothing"], "model._target_=torch.nn.Nothing: "),
        (["ckpt_path=none.ckpt"], "ckpt_path=none.ckpt: no such file"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_fault_of_all_jobs_is_reported_once(
    problems: Problems, overrides: list[str], start: str
) -> None:
    (message,) = problems(*overrides)
    assert message.startswith(start) and "\n" not in message


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["model.name=hf-hub:owner/name"], "hf download owner/name"),
        (["model.name=local-dir:nowhere"], "local-dir:nowhere"),
        (["model.name=test_vit", "model.weights=none.pth"], "model.weights=none.pth"),
        (["model.name=nonsense"], "model.name=nonsense"),
    ],
    ids=str,
)
def test_missing_weights_are_reported_before_submission(
    problems: Problems, tmp_path: Path, monkeypatch, overrides: list[str], named: str
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    (message,) = problems("model=timm", *overrides)
    assert named in message and "\n" not in message


def test_weights_that_are_there_are_no_problem(problems: Problems, tmp_path: Path) -> None:
    write_repository(tmp_path / "weights")
    named = f"model.name=local-dir:{tmp_path / 'weights'}"
    assert problems("model=timm", named, "model.tune=head") == []


@pytest.mark.parametrize("name", ["predict", "export", "bundle"])
def test_commands_that_read_a_run_can_be_submitted(name: str, tmp_path: Path, monkeypatch) -> None:
    plugins.register()
    monkeypatch.setattr(preflight, "_slurm_problems", lambda *_: [])
    own = ["hydra/launcher=submitit_slurm", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        master = loader.load_configuration(name, own, RunMode.MULTIRUN)
    given = ["input=b"] if name == "predict" else []
    sweep = SweepLoader(loader, master)
    jobs = [compose(sweep, [f"run={run}", *given], n) for n, run in enumerate("ab")]
    resources: Any = OmegaConf.to_container(master.hydra.launcher, resolve=True)
    assert preflight.settle_data(jobs) == jobs
    preflight.check([job.checked for job in jobs], resources, None)
