"""Settings outside the experiment do not change one bit of the weights."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pcam_lightning.config import build, schema

DROPOUT = {"cnn", "densenet121", "mlp"}


@pytest.fixture
def trained(
    composed: Callable, pcam_root: Path, tmp_path: Path
) -> Callable[..., dict[str, Tensor]]:
    """Return the weights after three steps with a config."""

    def train(*overrides: str) -> dict[str, Tensor]:
        config = composed(
            [
                "trainer=cpu",
                "trainer.precision=32-true",
                "trainer.max_epochs=1",
                "trainer.limit_train_batches=3",
                "trainer.log_every_n_steps=1",
                "trainer.limit_val_batches=1",
                "data.batch_size=3",
                "callbacks.checkpoint=null",  # a ResNet-50 with Adam takes 280 MB
                "callbacks.last_checkpoint=null",
                "+trainer.enable_checkpointing=false",
                *overrides,
            ]
        )
        schema.check("train", config)
        torch.rand(7)  # the state of torch's own generator must not matter
        trainer = build.build_trainer(config)
        module = build.build_module(config)
        trainer.fit(module, datamodule=build.build_datamodule(config, pcam_root))
        assert trainer.global_step == 3
        return module.state_dict()

    return train


def assert_equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


@pytest.mark.parametrize(
    ("model", "sampler"),
    [
        *(("mlp", "balanced"), ("mlp", "shuffle"), ("cnn", "balanced"), ("cnn", "shuffle")),
        pytest.param("resnet18", "shuffle", marks=pytest.mark.slow),
    ],
)
def test_loader_workers_do_not_change_weights(trained, model: str, sampler: str) -> None:
    chosen = [f"model={model}", f"data.sampler={sampler}", "augment=stain"]
    chosen += ["model.dropout=0.3"] if model in DROPOUT else []
    first = trained(*chosen, "data.num_workers=0")
    assert_equal(first, trained(*chosen, "data.num_workers=2"))


@pytest.mark.parametrize(
    "differing",
    ["seed=43", "data.sampler=shuffle", "augment=dihedral", "model.dropout=0.4"],
)
def test_settings_of_the_experiment_change_weights(trained, differing: str) -> None:
    chosen = ["model=cnn", "model.channels=[4,8]", "model.dropout=0.3"]
    first, other = trained(*chosen), trained(*chosen, differing)
    assert not torch.equal(first["model.head.1.weight"], other["model.head.1.weight"])


def test_logging_does_not_change_weights(trained) -> None:
    chosen = ["model=cnn", "model.channels=[4,8]", "model.dropout=0.3"]
    first = trained(*chosen, "trainer.log_every_n_steps=1", "logger=default")
    for other in (
        ["trainer.log_every_n_steps=50", "logger=default"],
        ["trainer.log_every_n_steps=2", "logger=csv"],
        ["logger=csv", "callbacks.gradient_norm=null", "callbacks.learning_rate=null"],
        ["logger=csv", "callbacks.progress=null", "+trainer.enable_progress_bar=false"],
    ):
        assert_equal(first, trained(*chosen, *other))
