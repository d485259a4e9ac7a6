from pathlib import Path

import pandas as pd
import pytest
import torch
from lightning import Callback, Trainer

from pcam_lightning.callbacks import GradientNorm
from pcam_lightning.data import PCamDataModule
from pcam_lightning.models import MLP
from pcam_lightning.module import PCamClassifier


class ByHand(Callback):
    """Norms parameter by parameter, as gradients come and after they were clipped."""

    def __init__(self) -> None:
        self.before: list[float] = []
        self.after: list[float] = []

    @staticmethod
    def norm(module) -> float:
        return sum(float((p.grad.double() ** 2).sum()) for p in module.parameters()) ** 0.5

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        self.before.append(self.norm(pl_module))

    def on_train_start(self, trainer, pl_module) -> None:
        trainer.optimizers[0].register_step_post_hook(
            lambda *_: self.after.append(self.norm(pl_module))
        )


def fit(root: Path, path: Path, **trainer) -> tuple[pd.DataFrame, ByHand, Trainer]:
    torch.manual_seed(0)
    module = PCamClassifier(
        MLP(hidden=(8,), dropout=0.0),
        lambda p: torch.optim.SGD(p, lr=0.01, fused=True),
        lambda optimizer, steps, per_epoch: [
            {"scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5), "interval": "step"}
        ],
    )
    by_hand = ByHand()
    runner = Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[GradientNorm(path), by_hand],
        **trainer,
    )
    runner.fit(module, datamodule=PCamDataModule(root, batch_size=8))
    return pd.read_parquet(path), by_hand, runner


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("clip", [None, 0.05])
def test_norms_before_and_after_clipping(
    pcam_root: Path, tmp_path: Path, clip: float | None, precision: str
) -> None:
    table, by_hand, _ = fit(
        pcam_root, tmp_path / "g.parquet", gradient_clip_val=clip, precision=precision
    )
    assert table["step"].tolist() == list(range(12))
    assert table["epoch"].tolist() == [0] * 6 + [1] * 6
    assert table["lr"].tolist() == pytest.approx([0.01 * 0.5**step for step in range(12)])
    assert table["norm"].tolist() == pytest.approx(by_hand.before, rel=1e-4)
    assert table["norm_clipped"].tolist() == pytest.approx(by_hand.after, rel=1e-4)
    if clip:
        assert max(table["norm_clipped"]) <= clip * 1.0001 < max(table["norm"])


def test_one_row_per_optimizer_step_when_gradients_accumulate(
    pcam_root: Path, tmp_path: Path
) -> None:
    table, by_hand, _ = fit(pcam_root, tmp_path / "g.parquet", accumulate_grad_batches=3)
    assert table["step"].tolist() == [0, 1, 2, 3]
    assert table["norm"].tolist() == pytest.approx(by_hand.before, rel=1e-4)


def test_it_is_logged_and_loss_is_the_batchs(pcam_root: Path, tmp_path: Path) -> None:
    table, _, trainer = fit(pcam_root, tmp_path / "g.parquet")
    last = trainer.callback_metrics
    assert float(last["grad/norm"]) == pytest.approx(table["norm"].iloc[-1])
    assert float(last["train/loss"]) == pytest.approx(table["loss"].iloc[-1])
