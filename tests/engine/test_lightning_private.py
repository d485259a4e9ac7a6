"""The private names of Lightning that this package depends on still exist."""

from importlib.metadata import version

import pytest
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.trainer.connectors.logger_connector.logger_connector import _LoggerConnector

PRIVATE = [
    (_FitLoop, "_iteration_based_training"),
    (_FitLoop, "_load_combined_loader_states"),
    (_LoggerConnector, "update_train_step_metrics"),
    (_TrainingEpochLoop, "_broadcast_sigterm_tensor"),
    (_TrainingEpochLoop, "_should_check_val_fx"),
    (SLURMEnvironment, "_validate_srun_variables"),
]


@pytest.mark.parametrize(
    ("owner", "name"), PRIVATE, ids=lambda each: getattr(each, "__name__", each)
)
def test_a_private_name_exists(owner: type, name: str) -> None:
    assert callable(getattr(owner, name, None)), (
        f"Lightning {version('lightning')} has no {owner.__name__}.{name}; replace its use in "
        "pcam_lightning/engine/lightning_private.py or rank_environment.py"
    )
