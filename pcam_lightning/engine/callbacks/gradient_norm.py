"""Gradient norms of every optimizer step, and the patches behind a spike."""

import hashlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from pcam_lightning.engine.columns import Columns
from pcam_lightning.engine.module import is_logged_step
from pcam_lightning.runs.growing_table import GrowingTable

FEWEST = 20
"""Smallest number of finite earlier norms that have a median."""


class GradientNorm(Callback):
    """Callback that logs `grad/norm` and writes one row per optimizer step to a parquet file.

    Columns:
        step, epoch: int64, from 0.
        loss: mean over the step's patches, of all micro-batches and ranks.
        lr: learning rate of the first parameter group.
        norm, norm_clipped: 2-norm of all gradients together, before and after clipping.
        median: median of the finite norms among the `window` earlier steps; NaN if fewer than 20.
        batch: int64 digest of the rows in their order. Two steps of any runs with the same rows in
            the same order have the same digest, for any split into micro-batches and ranks.
        rows, losses: lists at spikes, null at other steps: the batch's rows of the training file
            and their losses, highest first. At a spike, norm is not finite or above
            `spike_factor` x median.
        norm/NAME: float32 norm before clipping of each trained parameter of `model`; 0 if the
            parameter has no gradient.

    Values stay on the device until a checkpoint or the end of the epoch. Until training ends, the
    newest rows are in files next to the parquet file (see `GrowingTable`).

    Args:
        path: the parquet file. A resumed run keeps its rows before the first step of the resume.
        spike_factor: factor above 1.
        window: number of norms, at least 20.

    The module must be a `PCamClassifier`.
    """

    def __init__(self, path: str | Path, spike_factor: float = 3.0, window: int = 100) -> None:
        self.path, self.spike_factor, self.window = Path(path), spike_factor, window
        self._parameters: dict[str, torch.nn.Parameter] = {}
        self._table = GrowingTable(self.path)
        self._norms_before = np.empty(0)
        self._begun: list[tuple[int, int, float]] = []
        """Step, epoch and learning rate of the steps begun since the last write."""
        self._values = Columns(capacity=1 << 10)
        """For each completed step: loss, norm after and before clipping, norm of each parameter."""
        self._patches = Columns()
        """Row and loss of each patch of these steps."""
        self._batch_sizes: list[int] = []
        self._micro_batches: list[tuple[Tensor, Tensor]] = []
        self._has_stepped = self._is_logged = False

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
        # Read here, since they change before the batch ends.
        lr = optimizer.param_groups[0]["lr"]
        self._begun.append((trainer.global_step, trainer.current_epoch, float(lr)))
        self._has_stepped, self._is_logged = True, is_logged_step(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        row, loss = batch.row, outputs["patch_loss"]
        if trainer.world_size > 1:
            row, loss = (pl_module.all_gather(each).flatten() for each in (row, loss))  # type: ignore[union-attr]
        self._micro_batches.append((row, loss))
        if not self._has_stepped:  # gradients accumulate
            return
        self._has_stepped = False
        # Copies, since a kept batch of a worker would keep its shared memory.
        rows, losses = (torch.cat(each) for each in zip(*self._micro_batches, strict=True))
        norms = pl_module.gradient_norms()  # type: ignore[operator]
        norm = torch.linalg.vector_norm(norms)  # the same bits as torch's `get_total_norm`
        if self._is_logged:
            pl_module.log("grad/norm", norm)
        totals = torch.stack([losses.mean(), self._clipped(trainer, norm).float(), norm.float()])
        values = torch.cat([totals, norms.float()])
        self._values.add(values[None])
        self._patches.add(rows, losses)
        self._batch_sizes.append(len(rows))
        self._micro_batches.clear()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(trainer)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._write(trainer)  # a resumed run needs the rows before the checkpoint

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(trainer)
        self._table.join()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Resumed with no step left: the previous start was killed before it joined the parts.
        if not self._parameters and trainer.is_global_zero:
            self._table.open(trainer.global_step)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._write(trainer)
        with suppress(OSError):  # a full disk; readers accept the parts as well
            self._table.join()

    def _clipped(self, trainer: Trainer, norm: Tensor) -> Tensor:
        """Return the norm after clipping."""
        limit = trainer.gradient_clip_val
        if not limit:
            return norm
        if trainer.gradient_clip_algorithm == "value":
            # They stay until the next backward pass.
            return get_total_norm([p.grad for p in self._parameters.values() if p.grad is not None])
        # As torch's `clip_grads_with_norm_`; to measure it would be a further pass over memory.
        return norm * (limit / (norm + 1e-6)).clamp(max=1.0)

    def _write(self, trainer: Trainer) -> None:
        if self._batch_sizes:
            rows = self._pop_rows()  # before writing, so that a full disk adds no row twice
            if trainer.is_global_zero:
                self._table.append(rows)

    def _pop_rows(self) -> pa.Table:
        """Return the rows of the steps since the last write, and forget them."""
        (values,) = self._values.pop()
        loss, clipped, norm, *norms = values.cpu().numpy().T
        ends = np.cumsum(self._batch_sizes)[:-1]
        rows, losses = (np.split(each.cpu().numpy(), ends) for each in self._patches.pop())
        begun, self._begun = self._begun[: len(values)], self._begun[len(values) :]
        self._batch_sizes = []
        median = self._median(norm)
        spikes = ~np.isfinite(norm) | (norm > self.spike_factor * median)
        worst = [
            _highest_first(*patches) if spike else (None, None)
            for *patches, spike in zip(rows, losses, spikes, strict=True)
        ]
        step, epoch, lr = zip(*begun, strict=True)
        return pa.table(
            {"step": step, "epoch": epoch, "loss": loss, "lr": lr}
            | {"norm": norm, "norm_clipped": clipped, "median": median}
            | {"batch": [_digest(each) for each in rows]}
            | {"rows": pa.array([row for row, _ in worst], pa.list_(pa.int64()))}
            | {"losses": pa.array([loss for _, loss in worst], pa.list_(pa.float32()))}
            | dict(zip(self._parameters, norms, strict=True))
        )

    def _median(self, norm: np.ndarray) -> np.ndarray:
        """Return the median of earlier norms for each new step, float64 [N]; keep the new norms."""
        import pandas as pd  # not before the first training step

        earlier = len(self._norms_before)
        norms = np.concatenate([self._norms_before, norm])
        self._norms_before = norms[-self.window :]
        finite = pd.Series(norms).replace([np.inf, -np.inf], np.nan)
        return finite.rolling(self.window, FEWEST).median().shift().to_numpy()[earlier:]


def _digest(rows: np.ndarray) -> int:
    digest = hashlib.blake2b(rows.astype("<i8").tobytes(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def _highest_first(rows: np.ndarray, losses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sort both by descending loss; NaN counts as the highest."""
    order = np.argsort(-np.where(np.isnan(losses), np.inf, losses), kind="stable")
    return rows[order], losses[order]
