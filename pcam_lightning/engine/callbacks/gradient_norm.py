"""The size of the gradient at every optimizer step, and which patches made it jump."""

import hashlib
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from pcam_lightning.engine.module import is_clipped, is_logged_step
from pcam_lightning.runs.growing_table import GrowingTable

FEWEST = 20
"""Norms without which there is no median to compare with."""


class _Step(NamedTuple):
    """What one optimizer step leaves on the device until the table is written."""

    values: Tensor
    """float32 [3 + P]: loss, norm after clipping, norm before, and that of each parameter."""
    rows: Tensor
    """int64 [B], of the global batch, in its order."""
    losses: Tensor
    """float32 [B]."""


class GradientNorm(Callback):
    """Log `grad/norm` and write one row per optimizer step to a parquet file.

    Columns:
        step, epoch: int64, from 0.
        loss: mean over the step's patches, of all micro-batches and ranks.
        lr: of the first parameter group.
        norm, norm_clipped: 2-norm of all gradients together, before and after clipping.
        median: of the `window` norms before this one as far as they are finite, NaN where fewer
            than 20 are.
        batch: int64, a digest: equal where two steps, of any runs, had the same rows in the same
            order, however these were dealt out to micro-batches and ranks.
        rows, losses: lists, the batch's rows of the training file and the loss of each, the highest
            first; null but at spikes, where norm is not finite or above `spike_factor` x median.
        norm/NAME: float32, before clipping, of each parameter of `model` that is trained; 0 where
            it had no gradient.

    Values stay on the device and are fetched at checkpoints and once an epoch. Until training ends,
    the newest rows are in files beside the parquet file (see `GrowingTable`).

    Args:
        path: the parquet file. If it exists, its rows before the first step of this run are kept,
            so that a resumed run continues it.
        spike_factor: above 1.
        window: at least 20.

    Expects modules whose `training_step` returns `patch_loss`, as `PCamClassifier` does.
    """

    def __init__(self, path: str | Path, spike_factor: float = 3.0, window: int = 100) -> None:
        self.path, self.spike_factor, self.window = Path(path), spike_factor, window
        self._parameters: dict[str, torch.nn.Parameter] = {}
        self._table = GrowingTable(self.path)
        self._norms_before = np.empty(0)
        self._begun: list[tuple[int, int, float]] = []
        self._steps: list[_Step] = []
        self._micro_batches: list[tuple[Tensor, Tensor]] = []
        self._norms: Tensor | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        named: Any = pl_module.model.named_parameters()  # type: ignore[operator]
        self._parameters = {f"norm/{name}": p for name, p in named if p.requires_grad}
        if trainer.is_global_zero:
            before = self._table.open(trainer.global_step)
            norms = before["norm"].to_numpy() if len(before) else np.empty(0)
            self._norms_before = norms[-self.window :]

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Lightning calls this with unscaled gradients, before it clips them."""
        norms = torch.stack(torch._foreach_norm(self._gradients()))  # type: ignore[attr-defined]
        # As `get_total_norm` does it, to the bit.
        norm = torch.linalg.vector_norm(norms)
        self._norms = torch.cat([norm[None], norms])
        if is_logged_step(trainer):
            pl_module.log("grad/norm", norm)
        # Read here, since the scheduler moves on before the batch ends.
        lr = optimizer.param_groups[0]["lr"]
        self._begun.append((trainer.global_step, trainer.current_epoch, float(lr)))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        row, loss = batch.row, outputs["patch_loss"]
        if trainer.world_size > 1:
            row, loss = (pl_module.all_gather(each).flatten() for each in (row, loss))  # type: ignore[union-attr]
        self._micro_batches.append((row, loss))
        if self._norms is None:  # gradients are still being accumulated
            return
        # Copies: a worker's batch would hold its shared memory as long as it is kept.
        rows, losses = (torch.cat(each) for each in zip(*self._micro_batches, strict=True))
        # Gradients live until the next backward pass, so this is what the optimizer was given.
        clipped, limit = self._norms[0], trainer.gradient_clip_val
        if limit and is_clipped(clipped, float(limit)):
            clipped = get_total_norm(self._gradients())
        values = torch.cat([torch.stack([losses.mean(), clipped.float()]), self._norms.float()])
        self._steps.append(_Step(values, rows, losses))
        self._norms = None
        self._micro_batches.clear()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(trainer)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._write(trainer)  # so that a run which goes on from there finds the rows before it

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(trainer)
        self._table.join()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Resumed with no step left: the start before was killed before it joined its parts.
        if not self._parameters and trainer.is_global_zero:
            self._table.open(trainer.global_step)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._write(trainer)
        with suppress(OSError):  # a full disk; its parts can be read as well
            self._table.join()

    def _gradients(self) -> list[Tensor]:
        parameters = self._parameters.values()
        return [p.new_zeros(()) if p.grad is None else p.grad for p in parameters]

    def _write(self, trainer: Trainer) -> None:
        table = self._new_rows() if self._steps and trainer.is_global_zero else None
        del self._begun[: len(self._steps)]
        self._steps.clear()  # before writing: where the disk is full, nothing is added twice
        if table is not None:
            self._table.append(table)

    def _new_rows(self) -> pa.Table:
        """Of the steps since the last writing."""
        values, rows, losses = zip(*self._steps, strict=True)
        loss, clipped, norm, *norms = torch.stack(values).cpu().numpy().T
        ends = np.cumsum([len(each) for each in rows])[:-1]
        rows, losses = (np.split(torch.cat(each).cpu().numpy(), ends) for each in (rows, losses))
        median = self._median(norm)
        spikes = ~np.isfinite(norm) | (norm > self.spike_factor * median)
        worst = [
            _highest_first(*patches) if spike else (None, None)
            for *patches, spike in zip(rows, losses, spikes, strict=True)
        ]
        step, epoch, lr = zip(*self._begun[: len(self._steps)], strict=True)
        return pa.table(
            {"step": step, "epoch": epoch, "loss": loss, "lr": lr}
            | {"norm": norm, "norm_clipped": clipped, "median": median}
            | {"batch": [_digest(each) for each in rows]}
            | {"rows": pa.array([row for row, _ in worst], pa.list_(pa.int64()))}
            | {"losses": pa.array([loss for _, loss in worst], pa.list_(pa.float32()))}
            | dict(zip(self._parameters, norms, strict=True))
        )

    def _median(self, norm: np.ndarray) -> np.ndarray:
        """Return the median of the norms before each of these steps, float64 [N], and keep them."""
        earlier = len(self._norms_before)
        norms = np.concatenate([self._norms_before, norm])
        self._norms_before = norms[-self.window :]
        finite = pd.Series(norms).replace([np.inf, -np.inf], np.nan)
        return finite.rolling(self.window, FEWEST).median().shift().to_numpy()[earlier:]


def _digest(rows: np.ndarray) -> int:
    digest = hashlib.blake2b(rows.astype("<i8").tobytes(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def _highest_first(rows: np.ndarray, losses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both by falling loss; one that is not a number counts as the highest."""
    order = np.argsort(-np.where(np.isnan(losses), np.inf, losses), kind="stable")
    return rows[order], losses[order]
