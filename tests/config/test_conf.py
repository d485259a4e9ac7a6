"""Every shipped YAML file composes, and every part of it can be built."""

from pathlib import Path

import pytest
import stand_in_launcher
from huggingface_hub import try_to_load_from_cache
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode

from pcam_lightning.cli.command import CONF
from pcam_lightning.config import build, schema
from pcam_lightning.errors import InputError

GROUPS = ("data", "model", "augment", "optimizer", "scheduler", "trainer", "callbacks", "logger")
GROUPS += ("cluster",)
MANDATORY = {
    "sweep": ["continue=a"],
    "predict": ["run=a", "input=b"],
    "check": ["inputs=[a]"],
    "report": ["inputs=[a]"],
    "compare": ["runs=[a,b]"],
    "reproduce": ["run=a"],
    "collect": ["runs=a"],
    "evaluate": ["run=a"],
}
OPTIONAL_GROUPS = ("experiment", "sweep", "debug")


def choices(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def overrides() -> list[str]:
    return [f"{g}={choice}" for g in GROUPS + OPTIONAL_GROUPS for choice in choices(g)]


@pytest.mark.parametrize("override", overrides())
def test_every_choice_composes_and_its_targets_exist(composed, override: str) -> None:
    if override in ("logger=mlflow", "logger=wandb"):
        pytest.importorskip(override.removeprefix("logger="))
    config = composed([override])
    schema.check("train", config)
    build.check_targets(config)


@pytest.mark.parametrize("name", schema.ROOTS)
def test_every_root_config_is_valid(composed, name: str) -> None:
    schema.check(name, composed(MANDATORY.get(name, ()), name=name))


def test_every_yaml_is_covered() -> None:
    covered = {
        CONF / group / f"{choice}.yaml"
        for group in GROUPS + OPTIONAL_GROUPS
        for choice in choices(group)
    }
    covered |= {CONF / f"{root}.yaml" for root in schema.ROOTS}
    covered |= {CONF / "head_only.yaml"}  # part of probe.yaml
    hydra = set((CONF / "hydra").rglob("*.yaml"))  # in every composed config
    assert set(CONF.rglob("*.yaml")) == covered | hydra


OPTIMIZERS = [("mlp", optimizer, "onecycle") for optimizer in choices("optimizer")]
SCHEDULERS = [("mlp", "sgd", scheduler) for scheduler in choices("scheduler")]
MODELS = [(model, "adam", "onecycle") for model in choices("model") if model != "mlp"]


@pytest.mark.parametrize(("model", "optimizer", "scheduler"), OPTIMIZERS + SCHEDULERS + MODELS)
def test_every_model_optimizer_and_scheduler_takes_two_steps(
    composed, pcam_root: Path, model: str, optimizer: str, scheduler: str
) -> None:
    config = composed(
        [
            f"model={model}",
            f"optimizer={optimizer}",
            f"scheduler={scheduler}",
            "trainer=cpu",
            "trainer.precision=32-true",
            "trainer.max_epochs=1",
            "trainer.limit_train_batches=2",
            "trainer.limit_val_batches=1",
            "data.batch_size=2",
            "callbacks.checkpoint=null",  # checkpoints of large networks take gigabytes
            "callbacks.last_checkpoint=null",
            "+trainer.enable_checkpointing=false",
            "logger=csv",
            *(
                ["model.weights=null"] if model == "timm" else []
            ),  # its weights are not in the tests
        ]
    )
    schema.check("train", config)
    trainer = build.build_trainer(config)
    module = build.build_module(config)
    before = {name: value.clone() for name, value in module.model.named_parameters()}
    trainer.fit(module, datamodule=build.build_datamodule(config, pcam_root))
    assert trainer.global_step == 2
    moved = [
        name for name, value in module.model.named_parameters() if not value.equal(before[name])
    ]
    assert len(moved) > len(before) / 2


@pytest.mark.parametrize("name", choices("experiment"))
def test_every_experiment_runs_for_two_steps(composed, pcam_root: Path, name: str) -> None:
    chosen = [f"experiment={name}", "debug=fast", "trainer=cpu", "trainer.precision=32-true"]
    config = composed([*chosen, "data.batch_size=8"])
    schema.check("train", config)
    trainer = build.build_trainer(config)
    if config["model"].get("weights") == "pretrained" and not weights_are_here(config):
        with pytest.raises(InputError, match=r"hf download [\w./-]+"):
            build.build_module(config)
        return
    module = build.build_module(config)
    trainer.fit(module, datamodule=build.build_datamodule(config, pcam_root))
    assert trainer.global_step == 2


def weights_are_here(config: dict) -> bool:
    """Return whether the cache of the Hub has the repository that a section `model` names."""
    repository = config["model"]["name"].removeprefix("hf-hub:")
    return isinstance(try_to_load_from_cache(repository, "config.json"), str)


@pytest.mark.parametrize(("more", "runs"), [([], 18), (["seed=1,2,3"], 54), (["optimizer=sgd"], 9)])
def test_the_grid_is_every_combination_once(composed, more: list[str], runs: int) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        hydra = compose("train", ["sweep=grid18"], return_hydra_config=True).hydra
    assert hydra.mode == RunMode.MULTIRUN
    axes = [f"{key}={values}" for key, values in hydra.sweeper.params.items()]
    arguments = OverridesParser.create().parse_overrides([*axes, "sweep=grid18", *more])
    ((*jobs,),) = BasicSweeper.split_arguments(arguments, None)
    assert len(jobs) == len({tuple(sorted(job)) for job in jobs}) == runs
    config = composed(jobs[-1])
    schema.check("train", config)
    assert config["experiment_name"] == "grid18"
    optimizer = config["optimizer"]
    chosen = {
        "optimizer": optimizer["_target_"].rpartition(".")[2].lower(),
        "optimizer.lr": optimizer["lr"],
        "data.batch_size": config["data"]["batch_size"],
        "seed": config["seed"],
    }
    for override in OverridesParser.create().parse_overrides(jobs[-1]):
        if override.key_or_group in chosen:
            assert chosen[override.key_or_group] == override.value()


def test_a_named_sweep_needs_no_multirun_option(command, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in_launcher.register()
    seeds: dict[str, int] = {}
    job = lambda config, folder: seeds.setdefault(folder.name, config["seed"])  # noqa: E731
    monkeypatch.setattr(stand_in_launcher.StandIn, "job", staticmethod(job))
    target = f"hydra.launcher._target_={stand_in_launcher.TARGET}"
    code, _, err = command("sweep=seeds", target, "hydra.sweep.dir=sweep")
    assert code == 0, err
    assert seeds == {"0": 1, "1": 2, "2": 3}
