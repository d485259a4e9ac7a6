"""Training stops at a value that is not finite; every checkpoint holds finite weights.

Each case sets weights at a step of epoch 0 or 1 (6 batches each): huge weights make the next loss
not finite; weights that are not finite follow a finite loss.
"""

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from job_callbacks import Plant
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from pcam_lightning.data import PCamDataModule
from pcam_lightning.engine.callbacks import PreemptionCheckpoint
from pcam_lightning.engine.divergence import DivergenceCheck
from pcam_lightning.engine.module import PCamClassifier
from pcam_lightning.errors import Diverged
from pcam_lightning.models import CNN
from pcam_lightning.runs import Run

HUGE = 1e38
"""Finite in float32, while its square is not."""


def fit(
    root: Path, folder: Path, *callbacks: Callback, network: type[CNN] = CNN, **arguments
) -> None:
    """Fit two epochs of six batches and save as often as possible."""
    torch.manual_seed(0)
    module = PCamClassifier(network((4,)), partial(torch.optim.SGD, lr=0.125))
    every_step = ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)
    last = PreemptionCheckpoint(str(folder / "last.ckpt"), str(folder / "metrics.csv"), 0.0)
    best = ModelCheckpoint(folder, "best", monitor="val/loss", enable_version_counter=False)
    stopping = EarlyStopping("val/loss", check_finite=False, strict=False)
    trainer = Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        callbacks=[*callbacks, every_step, last, best, stopping],
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **arguments,
    )
    try:
        trainer.fit(module, datamodule=PCamDataModule(root, batch_size=8))
    finally:
        for path in folder.glob("*.ckpt"):
            state = torch.load(path, weights_only=True)["state_dict"]
            assert all(each.isfinite().all() for each in state.values()), path.name
        for score in (best.best_model_score, stopping.best_score):
            assert score is None or not torch.isnan(score)


@pytest.mark.parametrize(
    ("plant", "arguments", "step", "saved"),
    [
        (Plant(0, HUGE), {}, 1, 1),
        (Plant(3, -HUGE), {"accumulate_grad_batches": 2}, 2, 2),
        (Plant(0, torch.nan), {}, 0, 0),
        (Plant(8, torch.inf), {}, 8, 8),
        (Plant(5, torch.nan), {}, 5, 5),
        (Plant(5, torch.inf, buffer=True), {}, 5, 5),
        (Plant(11, torch.inf), {"limit_val_batches": 0}, 11, 11),
        (Plant(2, torch.nan), {"val_check_interval": 3}, 2, 2),
    ],
)
def test_the_error_names_step_and_learning_rate(
    pcam_root: Path, tmp_path: Path, plant: Plant, arguments: dict, step: int, saved: int
) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    expected = rf"^diverged at step {step} \(loss \S+, lr 0\.125\)"
    with pytest.raises(Diverged, match=expected) as caught:
        fit(pcam_root, folder, plant, **arguments)
    assert "\n" not in str(caught.value)
    assert len(list(folder.glob("step=*.ckpt"))) == saved  # earlier checkpoints survive


def test_infinite_validation_logits_stop_training(pcam_root: Path, tmp_path: Path) -> None:
    class Overflowing(CNN):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            logit = super().forward(image)
            return logit if self.training else logit / 0

    with pytest.raises(Diverged, match=r"^diverged at step 5 \(.*\): 20 validation logits"):
        fit(pcam_root, tmp_path, network=Overflowing)


def test_large_finite_values_do_not_stop_training(pcam_root: Path, tmp_path: Path) -> None:
    fit(pcam_root, tmp_path, Plant(5, HUGE, buffer=True))


def test_the_first_loss_that_is_not_finite_is_named() -> None:
    """On a GPU the host checks many steps at once."""
    check = DivergenceCheck()
    trainer: Any = SimpleNamespace(world_size=1, optimizers=[SimpleNamespace()])
    for number, loss in enumerate([0.5, 0.25, torch.inf, torch.nan]):
        group = {"lr": 2.0**-number}
        trainer.global_step, trainer.optimizers[0].param_groups = number, [group]
        check.record(trainer, torch.tensor(loss))
        if number == 1:
            check.check(trainer)
    with pytest.raises(Diverged, match=r"^diverged at step 2 \(loss inf, lr 0\.25\)$"):
        check.check(trainer)


def test_a_command_reports_one_line_and_keeps_the_last_finite_checkpoint(
    command, pcam_root: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    arguments = [
        *(f"data.root={pcam_root}", f"hydra.run.dir={folder}", "trainer=cpu", "logger=csv"),
        *("trainer.precision=32-true", "data.batch_size=8", "model=mlp", "model.hidden=[4]"),
        *("scheduler=none", "optimizer=sgd", "optimizer.lr=1e-3", "trainer.max_epochs=2"),
        *("trainer.log_every_n_steps=1", "callbacks.early_stopping=null"),
    ]
    plant = ["+callbacks.plant._target_=job_callbacks.Plant", "+callbacks.plant.number=8"]
    code, out, err = command(*arguments, *plant, "+callbacks.plant.value=nan")
    assert code == 1 and "summary:" not in out
    (line,) = err.splitlines()
    assert line == "failed: diverged at step 9 (loss nan, lr 0.001)"
    run = Run(folder)
    assert run.state == "failed"
    assert run.status["error"]["text"] == line.removeprefix("failed: ")
    assert run.status["error"]["traceback"] is None
    assert not (folder / "summary.json").exists()
    for path in (run.last_checkpoint, run.best_checkpoint):
        checkpoint = torch.load(path, weights_only=True)
        assert checkpoint["global_step"] == 6
        assert all(each.isfinite().all() for each in checkpoint["state_dict"].values())
