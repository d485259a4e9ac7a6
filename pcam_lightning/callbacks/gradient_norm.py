"""The size of the gradient at every optimizer step, without making the device wait."""

from pathlib import Path
from typing import Any

import pandas as pd
import torch
from lightning import Callback, LightningModule, Trainer
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from pcam_lightning.runs.record import write_bytes


class GradientNorm(Callback):
    """Log `grad/norm` and write one row per optimizer step to a parquet file.

    Columns: step (int, from 0), epoch (int), loss (the last batch's), lr (of the first parameter
    group), norm (2-norm of all gradients together) and norm_clipped (the same after clipping).
    Values stay on the device and are fetched at checkpoints and once an epoch.

    Args:
        path: the parquet file. If it exists, its rows before the first step of this run are kept,
            so that a resumed run continues it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._written = pd.DataFrame()
        self._steps: list[tuple[int, int, float]] = []
        self._values: list[torch.Tensor] = []
        self._norm: torch.Tensor | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step and self.path.is_file():
            earlier = pd.read_parquet(self.path)
            self._written = earlier[earlier["step"] < trainer.global_step]

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Lightning calls this with unscaled gradients, before it clips them."""
        self._norm = _norm(pl_module)
        pl_module.log("grad/norm", self._norm)
        # Read here, since the scheduler moves on before the batch ends.
        lr = optimizer.param_groups[0]["lr"]
        self._steps.append((trainer.global_step, trainer.current_epoch, float(lr)))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._norm is None:  # gradients are still being accumulated
            return
        # Gradients live until the next backward pass, so this is what the optimizer was given.
        clipped = _norm(pl_module) if trainer.gradient_clip_val else self._norm
        self._values.append(torch.stack([outputs["loss"].detach(), self._norm, clipped]).float())
        self._norm = None

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(trainer)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._write(trainer)  # so that a run which goes on from there finds the rows before it

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(trainer)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._write(trainer)

    def _write(self, trainer: Trainer) -> None:
        if not self._values or not trainer.is_global_zero:
            return
        loss, norm, clipped = torch.stack(self._values).cpu().numpy().T
        step, epoch, lr = zip(*self._steps[: len(self._values)], strict=True)
        rows = pd.DataFrame(
            {"step": step, "epoch": epoch, "loss": loss, "lr": lr}
            | {"norm": norm, "norm_clipped": clipped}
        )
        self._written = pd.concat([self._written, rows], ignore_index=True)
        self._steps.clear()
        self._values.clear()
        write_bytes(self.path, self._written.to_parquet(index=False))


def _norm(module: LightningModule) -> torch.Tensor:
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    return get_total_norm(gradients, foreach=True)
