"""The configs of a sweep's jobs are those that Hydra itself composes."""

from pathlib import Path

import pytest
from hydra import initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException
from hydra.types import RunMode
from omegaconf import OmegaConf

from pcam_lightning import plugins
from pcam_lightning.command import CONF
from pcam_lightning.sweep_loader import SweepLoader

JOBS = {
    "values": ["seed=3", "optimizer.lr=0.5", "model=mlp", "seed=4"],
    "the same groups again": ["optimizer.lr=0.25", "model=mlp"],
    "other groups": ["optimizer=sgd", "model=cnn", "optimizer.momentum=0.5", "sweep=seeds"],
    "nothing": [],
    "added, taken away": ["+trainer.limit_predict_batches=2", "~trainer.enable_model_summary"],
    "a group taken away": ["~augment", "seed=2"],
    "a group as a dict": ["model={dropout: 0.5}", "+note={a: 1}"],
    "by force": ["++seed=5", "++note.deep=x", "model.channels=[1,2]"],
    "of Hydra": ["hydra.job.name=other", "seed=2"],
}


@pytest.fixture
def loaders():
    plugins.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        ours = GlobalHydra.instance().config_loader()
        assert type(ours) is SweepLoader
        yield ours, ConfigLoaderImpl(ours.get_search_path())


def test_every_job_is_what_hydra_makes_of_it(loaders) -> None:
    overrides = ["hydra/launcher=submitit_local", "hydra.job.chdir=false", "seed=1,2"]
    for master_is_ours in (False, True):
        master = loaders[master_is_ours].load_configuration("train", overrides, RunMode.MULTIRUN)
        now = Path(master.hydra.sweep.dir).name
        for job in [*JOBS.values(), *JOBS.values()]:
            ours, hydras = (loader.load_sweep_config(master, list(job)) for loader in loaders)
            assert OmegaConf.to_container(ours) == OmegaConf.to_container(hydras)
            assert OmegaConf.to_yaml(ours) == OmegaConf.to_yaml(hydras)
            assert OmegaConf.get_type(ours, "hydra") is OmegaConf.get_type(hydras, "hydra")
            assert OmegaConf.is_struct(ours) and not OmegaConf.is_readonly(ours.hydra)
            assert ours.hydra.sweep.dir == hydras.hydra.sweep.dir
            assert Path(ours.hydra.sweep.dir).name == now


def test_jobs_that_choose_the_same_groups_are_composed_once(loaders, monkeypatch) -> None:
    ours = loaders[0]
    master = ours.load_configuration("train", [], RunMode.MULTIRUN)
    composed = []
    compose = ours.load_configuration
    monkeypatch.setattr(
        ours, "load_configuration", lambda *a, **more: composed.append(a) or compose(*a, **more)
    )
    jobs = [["model=mlp", f"seed={seed}"] for seed in range(50)] + [["seed=1", "model=cnn"]]
    seeds = [ours.load_sweep_config(master, job).seed for job in jobs]
    assert seeds == [*range(50), 1] and len(composed) == 2


@pytest.mark.parametrize(
    "wrong", ["seeed=1", "model=cmm", "seed=1,2", "+seed=1", "~seeed", "++model=cnn", "x@y=1"]
)
def test_what_hydra_refuses_is_refused_in_the_same_words(loaders, wrong: str) -> None:
    master = loaders[1].load_configuration("train", [], RunMode.MULTIRUN)
    said = []
    for loader in loaders:
        with pytest.raises(ConfigCompositionException) as caught:
            loader.load_sweep_config(master, ["optimizer.lr=1", wrong])
        said.append((str(caught.value), str(caught.value.__cause__)))
    assert said[0] == said[1]
