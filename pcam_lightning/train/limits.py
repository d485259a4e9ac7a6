"""Checks of a run's settings against its data, before training starts."""

import math
from collections.abc import Mapping
from typing import Any

from lightning import Trainer

from pcam_lightning.data import PCamDataModule
from pcam_lightning.data.files import SPLIT_FILES
from pcam_lightning.data.sampler import EpochBatches, SequentialBatches
from pcam_lightning.engine.monitors import NEEDS_BOTH_CLASSES, only_class, validation_labels
from pcam_lightning.errors import InputError


def check_batches(trainer: Trainer, datamodule: PCamDataModule) -> None:
    """Check that training, validation and test have at least one batch each.

    Args:
        trainer: trainer with its limits.
        datamodule: datamodule after `setup`.

    Raises:
        InputError: a limit leaves less than one batch, or the validation interval is longer than an
            epoch.
    """
    datamodule.check_batch_size(trainer.world_size)  # here, because every rank would report it
    counts = {split: _batches(trainer, datamodule, split) for split in ("train", "val", "test")}
    for split, count in counts.items():
        limit = getattr(trainer, f"limit_{split}_batches")
        if limit and count and not _limited(count, limit):
            key = f"limit_{split}_batches"
            if getattr(trainer, "overfit_batches", 0) and split != "test":
                key = "overfit_batches"
            share = math.ceil(1000 / count) / 1000
            raise InputError(
                f"trainer.{key}={limit:g}: less than one of {count} batches, expected a number of "
                f"batches such as trainer.{key}=1, or a share of at least {share:g}"
            )
    interval, per_epoch = trainer.val_check_interval, trainer.check_val_every_n_epoch is not None
    count = _limited(counts["train"], trainer.limit_train_batches)
    if per_epoch and type(interval) is int and interval > count:
        raise InputError(
            f"trainer.val_check_interval={interval}: more than the {count} training batches of an "
            f"epoch, expected at most {count}, a share of an epoch such as 0.5, or "
            "trainer.check_val_every_n_epoch=null, which counts the batches of all epochs"
        )


def check_classes(
    callbacks: Mapping[str, Mapping[str, Any] | None], trainer: Trainer, datamodule: PCamDataModule
) -> None:
    """Check that the metrics that callbacks monitor are defined on the validation patches.

    Args:
        callbacks: section `callbacks` of the config.
        trainer: trainer with its limits.
        datamodule: datamodule after `setup`.

    Raises:
        InputError: the patches are all of one class, and a callback monitors a metric that needs
            both.
    """
    labels = validation_labels(trainer, datamodule)
    if (found := only_class(labels)) is None:
        return
    for name, part in callbacks.items():
        if part and part.get("monitor") in NEEDS_BOTH_CLASSES:
            raise InputError(
                f"{datamodule.files('valid').labels}: the {len(labels)} validation patches are all "
                f"{found}, so that {part['monitor']} is undefined; expected both classes, or "
                f"callbacks.{name}.monitor=val/loss callbacks.{name}.mode=min"
            )


def _batches(trainer: Trainer, datamodule: PCamDataModule, split: str) -> int:
    """Return the number of batches of a split on each rank."""
    size, ranks = datamodule.batch_size, trainer.world_size
    dataset = datamodule.datasets[SPLIT_FILES.get(split, split)]
    if split == "train":
        return len(EpochBatches(dataset.labels, size, world_size=ranks))
    return len(SequentialBatches(len(dataset), size, world_size=ranks))


def _limited(batches: int, limit: float) -> int:
    """Return the number of batches under a limit: a share (float) or a maximum (int)."""
    return int(batches * limit) if isinstance(limit, float) else min(batches, limit)
