from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from pcam_files import random_split
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import ReduceLROnPlateau

from pcam_lightning.data import PCamDataModule
from pcam_lightning.engine.augment import RandomD4
from pcam_lightning.engine.module import PCamClassifier
from pcam_lightning.engine.schedulers import constant, cosine, onecycle, plateau
from pcam_lightning.errors import InputError
from pcam_lightning.models import CNN, MLP


class Validated(Callback):
    """The number of steps done before each validation."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.steps.append(trainer.global_step)


def fitted(
    root: Path,
    batch_size: int = 7,
    callbacks: Sequence[Callback] = (),
    trainer: Mapping[str, Any] | None = None,
    **arguments,
) -> PCamClassifier:
    torch.manual_seed(0)
    module = PCamClassifier(
        MLP(hidden=(8,), dropout=0.0), lambda p: torch.optim.SGD(p, lr=1e-3), **arguments
    )
    settings: dict[str, Any] = {
        "max_epochs": 2,
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": any(isinstance(each, ModelCheckpoint) for each in callbacks),
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }
    settings |= dict(trainer or {})
    datamodule = PCamDataModule(root, batch_size=batch_size)
    Trainer(callbacks=list(callbacks), **settings).fit(module, datamodule=datamodule)
    return module


def test_it_works_without_hydra_and_scores_every_row(pcam_root: Path) -> None:
    module = fitted(pcam_root)
    row, label, logit = module.predictions["val"]
    assert row.tolist() == list(range(20)) and label.tolist() == ([1, 0, 0] * 7)[:20]
    datamodule = PCamDataModule(pcam_root)
    datamodule.setup()
    module.eval()
    with torch.no_grad():
        expected = module(datamodule.datasets["valid"][np.arange(20)].image)
    torch.testing.assert_close(logit, expected)


def test_predict_returns_the_rows_and_logits_of_the_test_split(pcam_root: Path) -> None:
    torch.manual_seed(0)
    module, datamodule = PCamClassifier(CNN(channels=(4, 4))), PCamDataModule(pcam_root, 8)
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False}
    trainer = Trainer(accelerator="cpu", **quiet)
    batches: Any = trainer.predict(module, datamodule=datamodule)
    assert set(datamodule.datasets) == {"test"}
    assert [len(batch["row"]) for batch in batches] == [8, 8, 4]
    row, logit = (torch.cat([batch[name] for batch in batches]) for name in ("row", "logit"))
    assert row.dtype == torch.int64 and logit.dtype == torch.float32
    trainer.test(module, datamodule=datamodule, verbose=False)
    tested = module.predictions["test"]
    assert torch.equal(row, tested.row) and torch.equal(logit, tested.logit)
    module.eval()
    with torch.no_grad():  # the whole split at once
        expected = module(torch.from_numpy(random_split(20, seed=2)[0]))
    torch.testing.assert_close(logit, expected)


class Recorder(nn.Module):
    """An augmentation that remembers what its generator gave."""

    def __init__(self) -> None:
        super().__init__()
        self.drawn: list[float] = []

    def forward(self, image: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        self.drawn.append(torch.rand((), generator=generator).item())
        return image


def test_augmentation_has_its_own_stream_by_seed_and_step(pcam_root: Path) -> None:
    first, again, other = Recorder(), Recorder(), Recorder()
    fitted(pcam_root, augment=first)
    torch.manual_seed(99)
    fitted(pcam_root, augment=again)
    fitted(pcam_root, augment=other, seed=7)
    assert len(set(first.drawn)) == len(first.drawn) == 12
    assert first.drawn == again.drawn != other.drawn


def test_augmentation_is_for_training_only(pcam_root: Path) -> None:
    module = fitted(pcam_root, augment=RandomD4())
    image = torch.randint(0, 256, (4, 96, 96, 3), dtype=torch.uint8)
    module.eval()
    assert torch.equal(module(image), module.model(image))


@pytest.mark.parametrize(
    ("arguments", "validated_after"),
    [
        ({"max_steps": 4, "max_epochs": 5}, [4]),
        ({"max_steps": 8, "max_epochs": 5}, [6, 8]),
        ({"max_steps": 6, "max_epochs": 5}, [6]),
        ({"max_steps": 2, "max_epochs": 5, "accumulate_grad_batches": 2}, [2]),
        ({"max_epochs": 2, "check_val_every_n_epoch": 3}, [12]),
        ({"max_epochs": 3, "check_val_every_n_epoch": 2}, [12, 18]),
        ({"max_steps": 3, "max_epochs": 9, "check_val_every_n_epoch": 5}, [3]),
        ({"max_epochs": 2, "val_check_interval": 4}, [4, 10, 12]),
        ({"max_epochs": 2, "val_check_interval": 5, "check_val_every_n_epoch": None}, [5, 10, 12]),
        ({"max_steps": 9, "val_check_interval": 7, "check_val_every_n_epoch": None}, [7, 9]),
        ({"max_steps": 8, "max_epochs": -1, "val_check_interval": 4}, [4, 8]),
    ],
    ids=str,
)
def test_a_fit_ends_with_a_validation(
    pcam_root: Path, tmp_path: Path, arguments: dict, validated_after: list[int]
) -> None:
    """Batches of 7 make 6 steps an epoch, whatever ends the fit."""
    best = ModelCheckpoint(tmp_path, monitor="val/auroc", mode="max")
    watch = Validated()
    fitted(pcam_root, callbacks=[best, watch], trainer=arguments)
    assert watch.steps == validated_after
    assert Path(best.best_model_path).is_file()


def test_a_plateau_can_only_watch_what_validation_logs(pcam_root: Path) -> None:
    def watching(optimizer, steps: int, per_epoch: int) -> list[dict]:
        return [{"scheduler": ReduceLROnPlateau(optimizer), "monitor": "val/auc"}]

    with pytest.raises(InputError, match="val/auc, expected one of val/loss, val/auroc"):
        fitted(pcam_root, scheduler=watching)


@pytest.mark.parametrize(
    ("settings", "validations"),
    [
        ({"num_sanity_val_steps": 2}, 3),  # of a notebook: no step on the check before training
        ({"check_val_every_n_epoch": 2}, 2),  # the first epoch has no validation
        ({"val_check_interval": 4, "check_val_every_n_epoch": None}, 5),
    ],
    ids=str,
)
def test_a_plateau_steps_once_after_each_validation(
    pcam_root: Path, settings: dict, validations: int
) -> None:
    losses: list[float] = []

    class Recording(ReduceLROnPlateau):
        def step(self, metrics, epoch=None) -> None:
            losses.append(float(metrics))
            super().step(metrics, epoch)

    def recorded(optimizer, steps, per_epoch: int) -> list[dict]:
        return [{"scheduler": Recording(optimizer), "monitor": "val/loss"}]

    class Losses(Callback):
        def __init__(self) -> None:
            self.expected: list[float] = []

        def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            if not trainer.sanity_checking:
                self.expected.append(float(trainer.callback_metrics["val/loss"]))

    watch, limits = Losses(), {"max_epochs": 3, **settings}
    fitted(pcam_root, callbacks=[watch], scheduler=recorded, trainer=limits)
    assert losses == watch.expected and len(losses) == validations


@pytest.mark.parametrize("schedule", [cosine, onecycle])
def test_a_schedule_with_an_end_needs_a_number_of_steps(pcam_root: Path, schedule) -> None:
    endless = {"max_epochs": -1, "max_time": {"minutes": 1}}
    with pytest.raises(InputError, match=f"{schedule.__name__} ends after the last step"):
        fitted(pcam_root, scheduler=schedule, trainer=endless)


@pytest.mark.parametrize("schedule", [constant, plateau])
def test_time_alone_may_end_a_fit(pcam_root: Path, schedule) -> None:
    watch = Validated()
    endless = {"max_epochs": -1, "max_time": {"seconds": 0.01}}
    module = fitted(pcam_root, callbacks=[watch], scheduler=schedule, trainer=endless)
    assert watch.steps[-1] == module.trainer.global_step > 0


def test_an_epoch_of_a_schedule_is_an_epoch_of_the_data(pcam_root: Path) -> None:
    given = []

    def recorded(optimizer, steps: int, per_epoch: int) -> list[dict]:
        given.append((steps, per_epoch))
        return []

    fitted(pcam_root, scheduler=recorded, trainer={"max_steps": 2, "max_epochs": 5})
    assert given == [(2, 6)]


def test_the_network_is_compiled_once_at_the_same_step(pcam_root: Path, monkeypatch) -> None:
    monkeypatch.setattr("pcam_lightning.engine.module.EAGER_STEPS", 3)
    compiled_at = []

    class Net(MLP):
        def compile(self, *args, **kwargs) -> None:
            compiled_at.append(module.trainer.global_step)

    module = PCamClassifier(Net(hidden=(8,)), lambda p: torch.optim.SGD(p, lr=1e-3))
    module.compiled = True
    trainer = Trainer(max_steps=5, accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.fit(module, datamodule=PCamDataModule(pcam_root, batch_size=16))
    assert compiled_at == [3]


def test_a_plain_trainer_normalizes_as_the_data_module_says(pcam_root: Path) -> None:
    datamodule = PCamDataModule(pcam_root, batch_size=8, normalize="train")
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False}
    quiet |= {"enable_progress_bar": False, "accelerator": "cpu", "limit_train_batches": 1}

    def fit(model: nn.Module) -> None:
        module = PCamClassifier(model, optimizer=lambda parameters: SGD(parameters, lr=0.0))
        Trainer(max_epochs=1, **quiet).fit(module, datamodule=datamodule)

    network = CNN((4, 4))
    fit(network)
    with h5py.File(datamodule.files("train").images) as file:
        pixels = file["x"][:] / 255  # type: ignore[index]
    mean, std = pixels.mean(axis=(0, 1, 2)), pixels.std(axis=(0, 1, 2))
    np.testing.assert_allclose(network.normalize.mean.flatten(), mean, rtol=1e-5)
    np.testing.assert_allclose(network.normalize.std.flatten(), std, rtol=1e-5)

    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return self.scale * image.float().mean(dim=(1, 2, 3))

    with pytest.raises(InputError, match=r"^data\.normalize=train: Bare has no"):
        fit(Bare())
