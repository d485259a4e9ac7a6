"""Metrics that callbacks monitor: where one is undefined, and when early stopping ends a fit."""

import logging
import math

import numpy as np
from lightning import Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from numpy.typing import NDArray

from pcam_lightning.data.datamodule import PCamDataModule
from pcam_lightning.errors import InputError

log = logging.getLogger(__name__)

NEEDS_BOTH_CLASSES = ("val/auroc", "val/average_precision")
"""Validation metrics that are undefined if one class is absent."""


def validation_labels(trainer: Trainer, datamodule: PCamDataModule) -> NDArray[np.integer]:
    """Return the labels of the patches that each validation scores, under the trainer's limit."""
    labels = datamodule.datasets["valid"].labels
    size = datamodule.batch_size * trainer.world_size
    batches, limit = math.ceil(len(labels) / size), trainer.limit_val_batches
    count = int(batches * limit) if isinstance(limit, float) else min(batches, limit)
    return labels[: count * size]


def only_class(labels: NDArray[np.integer]) -> str | None:
    """Return "tumour" or "normal" if all labels are of this class, else None."""
    if not len(labels) or labels.min() != labels.max():
        return None
    return "tumour" if labels[0] else "normal"


def check_monitors(trainer: Trainer, labels: NDArray[np.integer], where: str) -> None:
    """Check that the metrics that the trainer's callbacks monitor are defined.

    Logs a warning if metrics are undefined that no callback monitors.

    Args:
        trainer: trainer with its callbacks.
        labels: labels of the validation patches.
        where: file of the labels; starts the text of an error.

    Raises:
        InputError: the patches are all of one class, and a callback monitors a metric that needs
            both. Training would end after the first epoch.
    """
    found = only_class(labels)
    if found is None or trainer.fast_dev_run:  # type: ignore[attr-defined]
        return
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if (monitor := getattr(callback, "monitor", None)) in NEEDS_BOTH_CLASSES:
            raise InputError(
                f"{where}: the {len(labels)} validation patches are all {found}, so that {monitor} "
                "is undefined; expected both classes, or "
                f"{type(callback).__name__}(monitor='val/loss', mode='min')"
            )
    if trainer.is_global_zero:
        log.warning(
            "%s: the %d validation patches are all %s, so that %s are undefined",
            *(where, len(labels), found, " and ".join(NEEDS_BOTH_CLASSES)),
        )


def early_stopped(trainer: Trainer) -> list[EarlyStopping]:
    """Return the callbacks that ended the fit after the last epoch, also if it is resumed there."""
    callbacks: list[EarlyStopping] = trainer.early_stopping_callbacks  # type: ignore[assignment]
    return [
        each
        for each in callbacks
        if each.stopping_reason != EarlyStoppingReason.NOT_STOPPED
        and each.stopped_epoch + 1 == trainer.current_epoch
    ]


def report_early_stopping(trainer: Trainer) -> None:
    """Log one line if early stopping ended the fit. To be called in `on_train_end`."""
    for each in early_stopped(trainer) if trainer.is_global_zero else []:
        text = (each.stopping_reason_message or "").removesuffix(" Signaling Trainer to stop.")
        if each.stopping_reason == EarlyStoppingReason.PATIENCE_EXHAUSTED:
            text = (
                f"{each.monitor} was not better than {float(each.best_score):.4f} in the last "
                f"{each.wait_count} checks (patience {each.patience})"
            )
        # As a warning, it is visible in a notebook as well.
        log.warning("early stopping after epoch %d: %s", trainer.current_epoch, text)
