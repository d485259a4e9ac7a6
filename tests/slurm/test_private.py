"""Private names of other packages exist in the versions that pyproject.toml allows."""

import inspect
from importlib import import_module

import pytest

NAMES = [
    "hydra._internal.config_loader_impl:ConfigLoaderImpl._apply_overrides_to_config",
    "hydra._internal.config_loader_impl:ConfigLoaderImpl.load_sweep_config",
    "hydra._internal.config_loader_impl:get_overrides_dirname",
    "hydra._internal.config_repository:CachingConfigRepository.load_config",
    "hydra._internal.core_plugins.basic_sweeper:BasicSweeper.validate_batch_is_legal",
    "submitit.local.local:Controller.run",
    "submitit.slurm.slurm:SlurmExecutor._make_submission_file_text",
]
ATTRIBUTES = [  # set in __init__
    ("hydra._internal.config_loader_impl:ConfigLoaderImpl", "self.repository ="),
    ("hydra.core.plugins:Plugins", "self.class_name_to_class:"),
    ("submitit.auto.auto:AutoExecutor", "self._executor ="),
]


def find(name: str) -> object:
    module, _, path = name.partition(":")
    found = import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_a_private_name_exists(name: str) -> None:
    try:
        find(name)
    except (ImportError, AttributeError):
        pytest.fail(f"{name} is gone: adapt pcam_lightning/slurm/*_private.py, or pin the package")


@pytest.mark.parametrize(("name", "assignment"), ATTRIBUTES)
def test_a_private_attribute_exists(name: str, assignment: str) -> None:
    source = inspect.getsource(find(name))  # type: ignore[arg-type]
    assert assignment in source, f"{name} has no {assignment.split(' ')[0]} any more: pin it"


def test_optuna_trials_have_an_id() -> None:
    optuna = pytest.importorskip("optuna")
    from pcam_lightning.search.study import open_trial

    study = optuna.create_study()
    number = study.ask().number
    open_trial(study, study.trials[number]).set_user_attr("reason", "x")
    assert study.trials[number].user_attrs == {"reason": "x"}
