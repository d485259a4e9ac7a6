"""Lightning module of a PatchCamelyon network: loss, optimizer, schedule, metrics."""

import math
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.nn.utils import clip_grads_with_norm_
from torch.optim.lr_scheduler import ReduceLROnPlateau

from pcam_lightning.data.datamodule import PCamDataModule
from pcam_lightning.data.dataset import Batch
from pcam_lightning.engine.columns import Columns
from pcam_lightning.engine.divergence import DivergenceCheck
from pcam_lightning.engine.frozen import (
    add_frozen,
    check_averaging,
    frozen_state,
    leave_out_frozen,
)
from pcam_lightning.engine.lightning_private import load_loader_state, resume_as_by_epochs
from pcam_lightning.engine.monitors import (
    check_monitors,
    early_stopped,
    report_early_stopping,
    validation_labels,
)
from pcam_lightning.engine.normalization import set_normalization
from pcam_lightning.engine.parameter_groups import build_optimizer
from pcam_lightning.engine.predictions import VAL_METRICS, Predictions, split_metrics
from pcam_lightning.engine.schedulers import check_length
from pcam_lightning.errors import InputError
from pcam_lightning.seeds import derive_seed
from pcam_lightning.weights.state import weights_digest

NEVER = sys.maxsize
"""Epochs between two steps that Lightning makes with a plateau schedule."""

EAGER_STEPS = 20
"""Optimizer steps of a run before `torch.compile`: errors in the network show before it starts."""


class PCamClassifier(LightningModule):
    """Binary classification of patches with cross-entropy on one logit.

    Every fit ends with a validation, whether epochs, steps or time end it. It raises `Diverged`
    when a loss, a weight or a validation logit is not finite.

    Args:
        model: maps uint8 [B, 96, 96, 3] to logits [B].
        optimizer: creates an optimizer from parameters; None for a module that is only evaluated.
        scheduler: function of `pcam_lightning.engine.schedulers` with its settings bound; None
            keeps the learning rate constant.
        augment: changes a training batch, called with the image and a generator; None for nothing.
        seed: seed of the run; augmentation and dropout draw from their own streams of it.
        backbone: name, license and digest of pretrained weights, for the records of the run.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] | None = None,
        scheduler: Callable[..., list[dict[str, Any]]] | None = None,
        augment: nn.Module | None = None,
        seed: int = 42,
        backbone: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.backbone = None if backbone is None else dict(backbone)
        self.model = model
        self.augment = augment
        self.optimizer, self.scheduler, self.seed = optimizer, scheduler, seed
        self.predictions: dict[str, Predictions] = {}
        """Latest predictions of each split, "val" and "test"; the whole split on every rank."""
        self.compiled = False
        """True runs the network through `torch.compile` from step `EAGER_STEPS` of the run on."""
        self._is_compiled = self._monitors_checked = False
        self._collected = Columns()
        self._divergence = DivergenceCheck()
        self._frozen_digest: str | None = None
        self._gradient_norms: Tensor | None = None

    @classmethod
    def load(cls, path: str | Path, model: nn.Module | None = None) -> Self:
        """Return a module with trained weights, in evaluation mode, on the CPU.

        Runs no code from the files. The logits are as in the run's predictions: `evaluate` applies
        its temperature and its correction of the share of tumour to them.

        Args:
            path: a run folder (its best checkpoint), a checkpoint or a bundle.
            model: network to load the weights into; None builds the network of this package that
                the run or bundle names.

        Raises:
            InputError: the files are missing, damaged or of another network, or name a network that
                is not of this package.
        """
        from pcam_lightning.engine.trained import load_network  # it imports this module

        return cls(load_network(Path(path), model)).eval()

    def forward(self, image: Tensor) -> Tensor:
        """Map uint8 [B, 96, 96, 3] to logits [B]."""
        return self.model(image)

    def on_fit_start(self) -> None:
        resume_as_by_epochs(self.trainer)
        if frozen := frozen_state(self.model):
            check_averaging(self.trainer)
            self._frozen_digest = weights_digest(frozen)
        datamodule = getattr(self.trainer, "datamodule", None)
        self._monitors_checked = isinstance(datamodule, PCamDataModule)
        if isinstance(datamodule, PCamDataModule):
            labels = validation_labels(self.trainer, datamodule)
            check_monitors(self.trainer, labels, str(datamodule.files("valid").labels))

    def on_train_end(self) -> None:
        report_early_stopping(self.trainer)

    def on_fit_end(self) -> None:
        # Lightning (2.6) counts one epoch less where a run resumes with no step left.
        progress: Any = self.trainer.fit_loop.epoch_progress.current
        progress.completed = progress.processed

    def setup(self, stage: str) -> None:
        """Set the network's channel statistics by `normalize` of the data module, before a fit."""
        datamodule = getattr(self.trainer, "datamodule", None)
        if stage == "fit" and isinstance(datamodule, PCamDataModule):
            set_normalization(self.model, datamodule)

    def on_train_start(self) -> None:
        load_loader_state(self.trainer)
        self._divergence = DivergenceCheck()  # an earlier fit may have ended inside an epoch
        steps = self.trainer.estimated_stepping_batches
        for entry in self.trainer.lr_scheduler_configs:
            check_length(entry.scheduler, steps)
        if early_stopped(self.trainer):  # the earlier start was killed after training
            self.trainer.should_stop = True
        self._end_with_validation()  # a resumed epoch may have no batch left

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        # The number of the step alone decides, so that a resumed run computes the same.
        if self.compiled and not self._is_compiled and self.trainer.global_step >= EAGER_STEPS:
            self.model.compile()  # in place: names in checkpoints stay the same
            self._is_compiled = True

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Return `loss`, and `patch_loss` float32 [B] without a gradient."""
        image = batch.image
        if self.augment is not None:
            image = self.augment(image, self._generator("augmentation", batch_idx))
        # Only dropout draws from torch's default generator.
        self._default_generator().manual_seed(self._stream("dropout", batch_idx))
        logit, label = self(image).float(), batch.label.float()
        loss = binary_cross_entropy_with_logits(logit, label)
        self._divergence.record(self.trainer, loss)
        # With a GPU or several ranks a check waits: only at steps that fetch the loss anyway.
        if is_logged_step(self.trainer) or (loss.is_cpu and self.trainer.world_size == 1):
            self._divergence.check(self.trainer)
        if is_logged_step(self.trainer):
            self.log("train/loss", loss, prog_bar=True, batch_size=len(image))
        # The mean of these is not used as the loss, because its gradient rounds differently.
        patch_loss = binary_cross_entropy_with_logits(logit.detach(), label, reduction="none")
        return {"loss": loss, "patch_loss": patch_loss}

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        trainer = self.trainer
        is_last_epoch = trainer.current_epoch + 1 == trainer.max_epochs
        if is_last_epoch and trainer.is_last_batch and trainer.val_check_interval != 1.0:
            trainer.should_stop = True  # the interval may not end with the epoch
        self._end_with_validation()

    def _end_with_validation(self) -> None:
        """Make Lightning validate at the end of the fit, also inside an epoch."""
        trainer = self.trainer
        if 0 < trainer.max_steps <= trainer.global_step:
            trainer.should_stop = True  # Lightning (2.6) validates there only if this is set
        ends = trainer.should_stop or trainer.current_epoch + 1 == trainer.max_epochs
        if ends and trainer.check_val_every_n_epoch is not None:
            trainer.check_val_every_n_epoch = 1

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._collected.add(batch.row, batch.label, self(batch.image).float())

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.validation_step(batch, batch_idx)

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Return `row` int64 [B] and `logit` float32 [B], in the order of the batch.

        `Trainer.predict` returns a list of these, one for each batch, on the CPU. With several
        ranks, each rank returns its own rows; padding may repeat the first ones.
        """
        return {"row": batch.row, "logit": self(batch.image).float()}

    def on_validation_start(self) -> None:
        if self._is_fitting():
            self._divergence.check(self.trainer, self.state_dict().values())

    def on_validation_epoch_end(self) -> None:
        scores = self._score("val")
        if self._is_fitting():
            if not self._monitors_checked:  # other loaders show their labels only now
                labels = self.predictions["val"].label.numpy()
                check_monitors(self.trainer, labels, "validation loader")
                self._monitors_checked = True
            # Before callbacks read the metrics: ModelCheckpoint may take NaN for a best score.
            if bad := int((~self.predictions["val"].logit.isfinite()).sum()):
                raise self._divergence.failure(f"{bad} validation logits are not finite")
            for entry in self.trainer.lr_scheduler_configs:
                if isinstance(entry.scheduler, ReduceLROnPlateau):
                    entry.scheduler.step(scores[entry.monitor])  # type: ignore[index]

    def on_train_epoch_end(self) -> None:
        self._divergence.check(self.trainer, self.state_dict().values())

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave frozen weights out; raise `Diverged` instead of writing what is not finite."""
        self._divergence.check(self.trainer, checkpoint["state_dict"].values())
        leave_out_frozen(checkpoint, self.model, self._frozen_digest)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the frozen weights, which `check_checkpoint` has compared."""
        add_frozen(checkpoint, self.model)

    def on_test_epoch_end(self) -> None:
        self._score("test")

    def configure_optimizers(self) -> OptimizerLRScheduler:
        assert self.optimizer is not None, "a module without an optimizer cannot be fitted"
        try:
            optimizer = build_optimizer(self.optimizer, self.model)
        except ValueError as error:  # for example a negative weight decay
            raise InputError(f"optimizer: {error}") from None
        if self.scheduler is None:
            return optimizer
        steps = self.trainer.estimated_stepping_batches
        if math.isinf(self.trainer.num_training_batches):  # without max_epochs: no loader yet
            self.trainer.fit_loop.setup_data()
        batches = self.trainer.num_training_batches
        per_epoch = math.ceil(batches / self.trainer.accumulate_grad_batches)
        entries = self.scheduler(optimizer, steps, per_epoch)
        for entry in entries:
            if not isinstance(entry["scheduler"], ReduceLROnPlateau):
                continue
            # Lightning (2.6) steps a plateau after it saves the epoch's last checkpoint, which
            # lacks the step, and raises if an epoch had no validation. `on_validation_epoch_end`
            # steps it instead.
            entry["frequency"] = NEVER
            if (monitor := entry.get("monitor")) not in VAL_METRICS:
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
        self._gradient_norms = None
        if not gradient_clip_val:
            return
        norm = torch.linalg.vector_norm(self.gradient_norms())
        # Lightning (2.6) rejects clipping for a fused optimizer in mixed precision, because a
        # scaler would pass scaled gradients to it. bfloat16 has no scaler.
        scaled = getattr(self.trainer.precision_plugin, "scaler", None) is not None
        if scaled or gradient_clip_algorithm not in (None, "norm"):
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        elif is_clipped(norm, gradient_clip_val):
            clip_grads_with_norm_(self.parameters(), gradient_clip_val, norm)

    def gradient_norms(self) -> Tensor:
        """Return the 2-norm of the gradient of each trained parameter of `model`, before clipping.

        A float tensor [P] in the order of `model.parameters()`, 0 where there is no gradient. It is
        that of the latest optimizer step, and is computed once: a pass over the gradients of a wide
        network takes several percent of a step. To be called after the step.
        """
        if self._gradient_norms is None:
            trained = [each for each in self.model.parameters() if each.requires_grad]
            gradients = [p.new_zeros(()) if p.grad is None else p.grad for p in trained]
            # Private in torch 2.14; the public `get_total_norm` returns only the total.
            self._gradient_norms = torch.stack(torch._foreach_norm(gradients))  # type: ignore[attr-defined]
        return self._gradient_norms

    def _is_fitting(self) -> bool:
        return self.trainer.state.fn == TrainerFn.FITTING and not self.trainer.sanity_checking

    def _default_generator(self) -> torch.Generator:
        # torch.manual_seed seeds the generators of all device types and formats a stack trace for
        # each unused one: 1 to 2 ms per step.
        if self.device.type == "cuda":
            return torch.cuda.default_generators[self.device.index or 0]
        if self.device.type == "mps":
            return torch.mps._get_default_mps_generator()  # torch 2.14 has no public name for it
        return torch.default_generator

    def _generator(self, stream: str, batch_idx: int) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(self._stream(stream, batch_idx))

    def _stream(self, name: str, batch_idx: int) -> int:
        # Seeded at each step: a resumed run draws the same numbers as an uninterrupted one.
        place = (self.current_epoch, batch_idx, self.global_rank)
        return derive_seed(self.seed, name, *place)

    def _score(self, split: str) -> dict[str, Tensor]:
        """Log and return metrics of the whole split, exact for any batch size and ranks."""
        columns = self._collected.pop()
        if self.trainer.world_size > 1:
            columns = [self.all_gather(column).flatten() for column in columns]  # type: ignore[union-attr]
        row, label, logit = (column.cpu() for column in columns)
        predictions = Predictions.sort(row, label, logit)
        self.predictions[split] = predictions
        scores = {f"{split}/{name}": v for name, v in split_metrics(predictions).items()}
        for name, value in scores.items():
            shown = name.endswith(("/loss", "/auroc"))
            # All ranks have equal values; their maximum, unlike a mean, has the same bits.
            self.log(name, value, prog_bar=shown, sync_dist=True, reduce_fx="max")
        return scores


def is_logged_step(trainer: Trainer) -> bool:
    """Return whether loggers or the end of the epoch use the values that this step logs.

    At other steps Lightning (2.6) spends half a millisecond per value and then drops it. To be
    called during a training step, before `trainer.global_step` counts it.
    """
    every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
    is_due = every > 0 and (trainer.should_stop or (trainer.global_step + 1) % every == 0)
    return trainer.is_last_batch or is_due


def is_clipped(norm: Tensor, limit: float) -> bool:
    """Return whether clipping may change gradients with this 2-norm.

    On a CPU the answer is exact: True if torch's `clip_grads_with_norm_` scales by less than 1.
    False then saves a pass through memory. On a GPU it is always True, because the host would have
    to wait for the norm.
    """
    return norm.device.type != "cpu" or not bool(norm + 1e-6 <= limit)
