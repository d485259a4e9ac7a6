"""A PatchCamelyon network with its loss, optimizer, schedule and metrics."""

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim.lr_scheduler import ReduceLROnPlateau

from pcam_lightning.data.dataset import Batch
from pcam_lightning.engine.divergence import DivergenceCheck
from pcam_lightning.engine.schedulers import check_length
from pcam_lightning.errors import InputError
from pcam_lightning.metrics.metrics import compute_metrics
from pcam_lightning.metrics.predictions import sigmoid
from pcam_lightning.seeds import derive_seed

SPLIT_METRICS = ("auroc", "average_precision", "accuracy", "f2")
"""Metrics of `metrics.metrics` that are logged of validation and test, beside the loss."""


VAL_METRICS = tuple(f"val/{name}" for name in ("loss", *SPLIT_METRICS))
"""Names under which validation logs."""


class Predictions(NamedTuple):
    """What a network said of the N rows of a split; sorted by row, each row once, on the CPU."""

    row: Tensor
    """int64 [N]."""
    label: Tensor
    """int64 [N], 0 or 1."""
    logit: Tensor
    """float32 [N]."""


class PCamClassifier(LightningModule):
    """Binary classification of patches with cross-entropy on one logit.

    A fit ends with a validation, whatever ends it: epochs, steps or time. `Diverged` ends it where
    a loss, a weight or a logit is not finite.

    Args:
        model: uint8 [B, 96, 96, 3] to logits [B].
        optimizer: makes an optimizer of parameters; None for a module that is only evaluated.
        scheduler: one of `pcam_lightning.engine.schedulers` with its settings bound; None keeps the
            learning rate as it is.
        augment: changes a training batch, called with the image and a generator; None for nothing.
        seed: the run's seed, of which the augmentation draws a stream of its own.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] | None = None,
        scheduler: Callable[..., list[dict[str, Any]]] | None = None,
        augment: nn.Module | None = None,
        seed: int = 42,
    ) -> None:
        super().__init__()
        self.model = model
        self.augment = augment
        self.optimizer, self.scheduler, self.seed = optimizer, scheduler, seed
        self.predictions: dict[str, Predictions] = {}
        """The latest ones of each split, "val" and "test"; on every rank the whole split."""
        self._collected: list[tuple[Tensor, Tensor, Tensor]] = []
        self._divergence = DivergenceCheck()

    def forward(self, image: Tensor) -> Tensor:
        """uint8 [B, 96, 96, 3] to logits [B]."""
        return self.model(image)

    def on_train_start(self) -> None:
        # Lightning (2.6) makes the loader where `configure_optimizers` asks for the number of
        # steps, which is before it loads a checkpoint, and then leaves out the loader's position.
        self.trainer.fit_loop._load_combined_loader_states()
        self._divergence = DivergenceCheck()  # an earlier fit may have ended inside an epoch
        steps = int(self.trainer.estimated_stepping_batches)
        for entry in self.trainer.lr_scheduler_configs:
            check_length(entry.scheduler, steps)
        self._end_with_validation()  # a resumed epoch may have no batch left

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """`loss`, and `patch_loss` float32 [B] without a gradient."""
        image = batch.image
        if self.augment is not None:
            image = self.augment(image, self._generator("augmentation", batch_idx))
        # What is left to torch's own generator is dropout.
        self._default_generator().manual_seed(self._stream("dropout", batch_idx))
        logit, label = self(image).float(), batch.label.float()
        loss = binary_cross_entropy_with_logits(logit, label)
        self._divergence.record(self.trainer, loss)
        # On a GPU or with several ranks only where the loss is fetched anyway.
        if is_logged_step(self.trainer) or (loss.is_cpu and self.trainer.world_size == 1):
            self._divergence.check(self.trainer)
        if is_logged_step(self.trainer):
            self.log("train/loss", loss, prog_bar=True, batch_size=len(image))
        # Not the other way round, the mean of these as the loss: its gradient is rounded otherwise.
        patch_loss = binary_cross_entropy_with_logits(logit.detach(), label, reduction="none")
        return {"loss": loss, "patch_loss": patch_loss}

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        self._end_with_validation()

    def _end_with_validation(self) -> None:
        """Let every fit end with a validation, also inside an epoch."""
        trainer = self.trainer
        if 0 < trainer.max_steps <= trainer.global_step:
            trainer.should_stop = True  # Lightning (2.6) validates there only if this is set
        ends = trainer.should_stop or trainer.current_epoch + 1 == trainer.max_epochs
        if ends and trainer.check_val_every_n_epoch is not None:
            trainer.check_val_every_n_epoch = 1

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._collected.append((batch.row, batch.label, self(batch.image).float()))

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.validation_step(batch, batch_idx)

    def on_validation_start(self) -> None:
        if self._is_fitting():
            self._divergence.check(self.trainer, self.state_dict().values())

    def on_validation_epoch_end(self) -> None:
        scores = self._score("val")
        if self._is_fitting():
            # Before any callback sees the metrics: to a checkpoint NaN may look like a best value.
            if bad := int((~self.predictions["val"].logit.isfinite()).sum()):
                raise self._divergence.failure(f"{bad} validation logits are not finite")
            for entry in self.trainer.lr_scheduler_configs:
                if isinstance(entry.scheduler, ReduceLROnPlateau):
                    entry.scheduler.step(scores[entry.monitor])  # type: ignore[index]

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        # Lightning (2.6) steps a plateau after the checkpoint at an epoch's end, which would not
        # know of it. Validation does instead.
        if not isinstance(scheduler, ReduceLROnPlateau):
            super().lr_scheduler_step(scheduler, metric)

    def on_train_epoch_end(self) -> None:
        self._divergence.check(self.trainer, self.state_dict().values())

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raise `Diverged` instead of writing weights that are not finite."""
        self._divergence.check(self.trainer, checkpoint["state_dict"].values())

    def on_test_epoch_end(self) -> None:
        self._score("test")

    def configure_optimizers(self) -> OptimizerLRScheduler:
        assert self.optimizer is not None, "a module without an optimizer cannot be fitted"
        optimizer = self.optimizer(self.parameters())
        if self.scheduler is None:
            return optimizer
        steps = int(self.trainer.estimated_stepping_batches)
        if math.isinf(self.trainer.num_training_batches):  # Lightning (2.6) did not need to know
            self.trainer.fit_loop.setup_data()
        batches = self.trainer.num_training_batches
        per_epoch = math.ceil(batches / self.trainer.accumulate_grad_batches)
        entries = self.scheduler(optimizer, steps, per_epoch)
        for entry in entries:
            monitor = entry.get("monitor")
            if isinstance(entry["scheduler"], ReduceLROnPlateau) and monitor not in VAL_METRICS:
                raise InputError(
                    f"scheduler: monitors {monitor}, expected one of {', '.join(VAL_METRICS)}"
                )
        return [optimizer], entries  # type: ignore[return-value]

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        # Lightning 2.6 refuses to clip for a fused optimizer in mixed precision, because a scaler
        # would make it see scaled gradients. In bfloat16 there is no scaler.
        scaled = getattr(self.trainer.precision_plugin, "scaler", None) is not None
        if gradient_clip_val and not scaled and gradient_clip_algorithm in (None, "norm"):
            parameters = [p for p in self.parameters() if p.grad is not None]
            norm = get_total_norm([p.grad for p in parameters])  # type: ignore[misc]
            if is_clipped(norm, gradient_clip_val):
                clip_grads_with_norm_(parameters, gradient_clip_val, norm)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def _is_fitting(self) -> bool:
        return self.trainer.state.fn == TrainerFn.FITTING and not self.trainer.sanity_checking

    def _default_generator(self) -> torch.Generator:
        # torch.manual_seed seeds those of every kind of device and, for each kind that is not in
        # use, keeps a formatted stack trace: 1 to 2 ms a step.
        if self.device.type == "cuda":
            return torch.cuda.default_generators[self.device.index or 0]
        if self.device.type == "mps":
            return torch.mps._get_default_mps_generator()
        return torch.default_generator

    def _generator(self, stream: str, batch_idx: int) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(self._stream(stream, batch_idx))

    def _stream(self, name: str, batch_idx: int) -> int:
        # Seeded anew at each step: a run that goes on from here draws what it would have drawn.
        place = (self.current_epoch, batch_idx, self.global_rank)
        return derive_seed(self.seed, name, *place)

    def _score(self, split: str) -> dict[str, Tensor]:
        """Metrics over the whole split at once, so they are exact for any batch size and ranks."""
        columns = [torch.cat(column) for column in zip(*self._collected, strict=True)]
        self._collected.clear()
        if self.trainer.world_size > 1:
            columns = [self.all_gather(column).flatten() for column in columns]  # type: ignore[union-attr]
        row, label, logit = (column.cpu() for column in columns)
        # Ranks are padded with rows that other ranks hold too: each row counts once.
        order = torch.argsort(row, stable=True)
        first = torch.ones(len(row), dtype=torch.bool)
        first[1:] = row[order][1:] != row[order][:-1]
        keep = order[first]
        predictions = Predictions(row[keep], label[keep], logit[keep])
        self.predictions[split] = predictions
        scores = {f"{split}/{name}": v for name, v in split_metrics(predictions).items()}
        for name, value in scores.items():
            shown = name.endswith(("/loss", "/auroc"))
            # Equal on all ranks, and the greatest of equal numbers is each of them to the last bit.
            self.log(name, value, prog_bar=shown, sync_dist=True, reduce_fx="max")
        return scores


def is_logged_step(trainer: Trainer) -> bool:
    """Whether what this training step logs reaches anybody: loggers, or the end of the epoch.

    At other steps Lightning (2.6) takes half a millisecond to keep a number, and drops it.
    """
    return trainer.is_last_batch or trainer._logger_connector.should_update_logs


def is_clipped(norm: Tensor, limit: float) -> bool:
    """Whether clipping gradients of this 2-norm can change them, as far as that costs nothing.

    On a CPU exactly where they are multiplied by less than 1 (see torch's `clip_grads_with_norm_`),
    which spares the others a pass through memory. On a GPU always: the host would have to wait.
    """
    return norm.device.type != "cpu" or not bool(norm + 1e-6 <= limit)


def split_metrics(predictions: Predictions) -> dict[str, Tensor]:
    """Return loss, AUROC, average precision, accuracy and F2 at probability 0.5, over a split.

    Each is a float32 scalar, and NaN where it is undefined (see `metrics.metrics`). All of them
    are NaN where any logit is not finite.
    """
    _, label, logit = predictions
    if not logit.isfinite().all():
        return dict.fromkeys(("loss", *SPLIT_METRICS), torch.tensor(torch.nan))
    scores = compute_metrics(label.numpy(), sigmoid(logit.numpy()))
    loss = binary_cross_entropy_with_logits(logit, label.float())
    return {"loss": loss} | {name: torch.tensor(scores[name]) for name in SPLIT_METRICS}
