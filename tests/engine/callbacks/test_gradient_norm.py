import copy
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from lightning import Callback, Trainer
from pcam_files import SPLITS, random_split, write_split
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.nn.utils import get_total_norm

from pcam_lightning.data import PCamDataModule
from pcam_lightning.engine.callbacks import GradientNorm
from pcam_lightning.engine.module import PCamClassifier
from pcam_lightning.models import MLP

pytestmark = pytest.mark.xdist_group("gradient_norm")  # one process has the fixtures


class ByHand(Callback):
    """Independent values of each step, computed per parameter and per patch.

    Gradients of the steps in `scaled` are multiplied by a factor.
    """

    def __init__(self, scaled: dict[int, float] | None = None) -> None:
        self.scaled = scaled or {}
        self.before: list[float] = []
        self.after: list[float] = []
        self.total: list[float] = []
        self.parameters: list[dict[str, float]] = []
        self.loss: list[list[tuple[int, float]]] = []
        """Rows of each micro-batch with their losses; a row may occur twice."""

    @staticmethod
    def norm(module) -> float:
        return sum(float((p.grad.double() ** 2).sum()) for p in module.parameters()) ** 0.5

    def on_train_start(self, trainer, pl_module) -> None:
        trainer.optimizers[0].register_step_post_hook(
            lambda *_: self.after.append(self.norm(pl_module))
        )

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        with torch.no_grad():
            logit = pl_module(batch.image)
        each = [
            binary_cross_entropy_with_logits(one, label.float()).item()
            for one, label in zip(logit, batch.label, strict=True)
        ]
        self.loss.append(list(zip(batch.row.tolist(), each, strict=True)))

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        for p in pl_module.parameters():
            assert p.grad is not None
            p.grad *= self.scaled.get(trainer.global_step, 1.0)
        self.before.append(self.norm(pl_module))
        named: dict[str, Any] = {name: p.grad for name, p in pl_module.model.named_parameters()}  # type: ignore[operator]
        self.parameters.append({name: grad.double().norm().item() for name, grad in named.items()})
        self.total.append(get_total_norm(list(named.values())).float().item())


class Forgive(Callback):
    """Keep the weights constant, so that steps after a spike are ordinary."""

    def on_train_start(self, trainer, pl_module) -> None:
        self.weights = copy.deepcopy(pl_module.state_dict())

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        pl_module.load_state_dict(self.weights)


def fit(
    root: Path,
    path: Path,
    *,
    gradient_norm: GradientNorm | None = None,
    scaled: dict[int, float] | None = None,
    batch_size: int = 8,
    seed: int = 42,
    callbacks: Sequence[Callback] = (),
    ckpt_path: Path | None = None,
    **trainer,
) -> tuple[pd.DataFrame, ByHand, Trainer]:
    torch.manual_seed(0)
    module = PCamClassifier(
        MLP(hidden=(8,), dropout=0.0),
        lambda p: torch.optim.SGD(p, lr=0.01, fused=True),
        lambda optimizer, steps, per_epoch: [
            {"scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5), "interval": "step"}
        ],
    )
    by_hand = ByHand(scaled)
    runner = Trainer(
        **{
            "max_epochs": 2,
            "accelerator": "cpu",
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
            "limit_val_batches": 0,
            "callbacks": [by_hand, gradient_norm or GradientNorm(path), *callbacks],
        }
        | trainer
    )
    datamodule = PCamDataModule(root, batch_size=batch_size, seed=seed)
    runner.fit(module, datamodule=datamodule, ckpt_path=ckpt_path, weights_only=True)
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
    assert table["norm"].tolist() == by_hand.total
    assert table["norm"].tolist() == pytest.approx(by_hand.before, rel=1e-4)
    assert table["norm_clipped"].tolist() == pytest.approx(by_hand.after, rel=1e-4)
    if clip:
        assert max(table["norm_clipped"]) <= clip * 1.0001 < max(table["norm"])


def test_every_parameter_has_its_norm(pcam_root: Path, tmp_path: Path) -> None:
    table, by_hand, _ = fit(pcam_root, tmp_path / "g.parquet", gradient_clip_val=0.05)
    parameters = table.filter(like="norm/")
    expected = pd.DataFrame(by_hand.parameters).add_prefix("norm/")
    pd.testing.assert_frame_equal(parameters.astype(float), expected, rtol=1e-5)
    assert set(parameters.dtypes) == {np.dtype("float32")}


def test_one_row_per_optimizer_step_when_gradients_accumulate(
    pcam_root: Path, tmp_path: Path
) -> None:
    # 6 micro-batches in steps of 4 and 2
    table, by_hand, _ = fit(
        pcam_root,
        tmp_path / "g.parquet",
        accumulate_grad_batches=4,
        scaled={2: np.inf},
        callbacks=[Forgive()],
    )
    assert table["step"].tolist() == [0, 1, 2, 3]
    assert table["norm"].tolist() == pytest.approx(by_hand.before, rel=1e-4)
    steps = [by_hand.loss[first:last] for first, last in ((0, 4), (4, 6), (6, 10), (10, 12))]
    means = [np.mean([loss for micro in step for _, loss in micro]) for step in steps]
    assert table["loss"].tolist() == pytest.approx(means, rel=1e-5)
    rows = [row for micro in steps[2] for row, _ in micro]
    assert sorted(table["rows"][2]) == sorted(rows) and len(rows) == 32


def test_it_is_logged_and_loss_is_the_batchs(pcam_root: Path, tmp_path: Path) -> None:
    table, _, trainer = fit(pcam_root, tmp_path / "g.parquet")
    last = trainer.callback_metrics
    assert float(last["grad/norm"]) == pytest.approx(table["norm"].iloc[-1])
    assert float(last["train/loss"]) == table["loss"].iloc[-1]


def test_the_batch_number_is_that_of_rows_in_their_order(pcam_root: Path, tmp_path: Path) -> None:
    whole, by_hand, _ = fit(pcam_root, tmp_path / "g.parquet")
    assert len(set(whole["batch"])) == 12 and whole["batch"].dtype == np.int64
    # The same rows in parts, and in another order.
    split, halves, _ = fit(
        pcam_root, tmp_path / "split.parquet", batch_size=4, accumulate_grad_batches=2
    )
    first = [row for row, _ in halves.loss[0] + halves.loss[1]]
    assert first == [row for row, _ in by_hand.loss[0]]
    assert split["batch"].tolist() == whole["batch"].tolist()
    other, _, _ = fit(pcam_root, tmp_path / "other.parquet", seed=7)
    assert not set(other["batch"]) & set(whole["batch"])


def test_the_batch_number_tells_orders_apart() -> None:
    from pcam_lightning.engine.callbacks.gradient_norm import _digest

    rows = np.arange(128)
    assert _digest(rows) == _digest(rows.copy()) != _digest(rows[::-1])
    swapped = rows.copy()
    swapped[[3, 4]] = 4, 3
    assert _digest(swapped) != _digest(rows) != _digest(rows[:-1])


JUMPS = {5: np.inf, 15: 50.0, 40: np.nan, 60: 50.0, 61: 50.0, 100: 1.5}


def spiking(root: Path, path: Path, *more: Callback, **arguments) -> tuple[pd.DataFrame, ByHand]:
    """Fit 20 epochs of 6 steps with gradient spikes."""
    arguments |= {"max_epochs": 20, "scaled": JUMPS, "callbacks": [Forgive(), *more]}
    gradient_norm = GradientNorm(path, spike_factor=4.0, window=25)
    table, by_hand, _ = fit(root, path, gradient_norm=gradient_norm, **arguments)
    return table, by_hand


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    for seed, (split, rows) in enumerate(zip(SPLITS, (48, 20, 20), strict=True)):
        write_split(root, split, *random_split(rows, seed))
    return root


@pytest.fixture(scope="module")
def whole(root: Path, tmp_path_factory) -> tuple[pd.DataFrame, ByHand, Path]:
    """Table, expected values and file of an uninterrupted run."""
    path = tmp_path_factory.mktemp("whole") / "g.parquet"
    return *spiking(root, path), path


def test_a_spike_exceeds_the_median_of_earlier_norms(whole) -> None:
    table, _, _ = whole
    norms = table["norm"].astype(float).tolist()
    before = [[n for n in norms[max(0, step - 25) : step] if np.isfinite(n)] for step in range(120)]
    medians = [np.median(some) if len(some) >= 20 else np.nan for some in before]
    np.testing.assert_array_equal(table["median"], medians)
    # Step 15 has fewer than 20 earlier norms, step 100 stays below the limit.
    spikes = table[table["rows"].notna()]
    assert spikes["step"].tolist() == [5, 40, 60, 61]
    assert table["losses"].notna().tolist() == table["rows"].notna().tolist()


def test_a_spike_lists_its_patches_by_loss(whole) -> None:
    table, by_hand, _ = whole
    for step in (5, 40, 60, 61):
        rows, losses = table["rows"][step], table["losses"][step]
        assert list(losses) == sorted(losses, reverse=True)
        found, expected = sorted(zip(rows, losses, strict=True)), sorted(by_hand.loss[step])
        assert len(found) == 8
        np.testing.assert_allclose(found, expected, rtol=1e-5)


class Stop(Callback):
    """Save after a number of steps and fail three steps later; the resume drops their rows."""

    def __init__(self, steps: int, path: Path) -> None:
        self.steps, self.path = steps, path

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if trainer.global_step == self.steps:
            trainer.save_checkpoint(self.path)
        if trainer.global_step == self.steps + 3:
            raise RuntimeError("stopped")


@pytest.mark.parametrize("steps", [2, pytest.param(61, marks=pytest.mark.slow)])
def test_a_resumed_table_is_the_same(root: Path, tmp_path: Path, whole, steps: int) -> None:
    expected, _, file = whole
    path, checkpoint = tmp_path / "g.parquet", tmp_path / "last.ckpt"
    with pytest.raises(RuntimeError, match="stopped"):
        spiking(root, path, Stop(steps, checkpoint))
    assert len(pd.read_parquet(path)) == steps + 3
    resumed, _ = spiking(root, path, ckpt_path=checkpoint)
    pd.testing.assert_frame_equal(resumed, expected, check_exact=True)
    assert pq.read_schema(path).equals(pq.read_schema(file))
    assert pq.read_schema(path).field("rows").type == pa.list_(pa.int64())


@pytest.mark.slow
def test_two_ranks_leave_the_table_of_their_global_batches(pcam_root: Path, tmp_path: Path) -> None:
    """Compare two ranks with batches of 4 and one with batches of 8."""
    tables = []
    for ranks in (2, 1):
        folder = tmp_path / f"ranks_{ranks}"
        command = [
            *(sys.executable, "-m", "pcam_lightning.train", f"hydra.run.dir={folder}"),
            *(f"data.root={pcam_root}", f"data.batch_size={8 // ranks}", "model=mlp"),
            *("model.hidden=[8]", "model.dropout=0", "augment=none", "logger=csv"),
            *("trainer=cpu", f"trainer.devices={ranks}", "trainer.precision=32-true"),
            *("trainer.max_epochs=5", "optimizer.lr=1e-7"),
            "callbacks.gradient_norm.spike_factor=1.0001",
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        tables.append(pd.read_parquet(folder / "gradients.parquet"))
    two, one = tables
    assert len(one) == 30 and one["rows"].notna().any()
    np.testing.assert_array_equal(two["batch"], one["batch"])
    np.testing.assert_allclose(two["loss"], one["loss"], rtol=1e-3)
    np.testing.assert_allclose(two["norm"], one["norm"], rtol=1e-3)
    for step in np.flatnonzero(two["rows"].notna() & one["rows"].notna()):
        assert sorted(two["rows"][step]) == sorted(one["rows"][step])
        assert len(two["losses"][step]) == 8
