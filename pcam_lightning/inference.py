"""From a checkpoint and data to the predictions of validation and test."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate

from pcam_lightning import assembly
from pcam_lightning.attribution import check_attribution
from pcam_lightning.checkpoint_io import load_weights
from pcam_lightning.data import PCamDataModule
from pcam_lightning.data.files import read_slides
from pcam_lightning.errors import InputError
from pcam_lightning.evaluation.analysis import PLAIN_LOGIT
from pcam_lightning.evaluation.appearance import measure
from pcam_lightning.evaluation.predictions import write_predictions
from pcam_lightning.models.orientations import EveryOrientation
from pcam_lightning.module import PCamClassifier, Predictions
from pcam_lightning.result import weights_digest
from pcam_lightning.specimens import SPLIT_FILES

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Inference:
    """What a checkpoint said of a data module's validation and test patches."""

    module: PCamClassifier
    """With the checkpoint's weights, in evaluation mode, on the CPU; without augmentation."""
    facts: dict[str, Any]
    """`weights_digest`, `device`, `precision`, `patches`, `seconds`, `patches_per_second` and,
    with augmentation, `tta_seconds` and `tta_cost`, how many times as long it took."""


def predict(
    config: dict[str, Any],
    checkpoint: Path,
    datamodule: PCamDataModule,
    folder: Path,
    splits: Sequence[str],
    tta: str,
    attribution: str,
) -> Inference:
    """Write `predictions/{val,test}.parquet` of the splits, with the patches' appearance.

    With `tta` "d4" the logits are those of `EveryOrientation`, and the column `logit_without_tta`
    holds the others. Whether the network can have the `attribution` asked for is checked first.

    Raises:
        InputError: the checkpoint is damaged or of another network, the device or the attribution
            cannot be had, or a logit is not finite.
    """
    trainer_config = config["trainer"] | {
        "enable_checkpointing": False,
        "enable_progress_bar": False,
    }
    trainer_config["precision"] = assembly.choose_precision(trainer_config)
    parts = {"trainer": trainer_config, "callbacks": {}, "logger": {}}
    module = PCamClassifier(instantiate(config["model"]))
    load_weights(checkpoint, module)
    check_attribution(module.model.eval(), attribution)
    digest = weights_digest(module.model.state_dict())
    plain, seconds = _score(parts, module, datamodule, splits)
    facts: dict[str, Any] = {
        "weights_digest": digest,
        "precision": trainer_config["precision"],
        "batch_size": datamodule.batch_size,
        "threads": torch.get_num_threads(),
        "patches": sum(len(each.row) for each in plain.values()),
        "seconds": seconds,
    }
    facts["patches_per_second"] = facts["patches"] / seconds
    final = plain
    if tta == "d4":
        augmented = PCamClassifier(EveryOrientation(module.model))
        final, facts["tta_seconds"] = _score(parts, augmented, datamodule, splits)
        facts["tta_cost"] = facts["tta_seconds"] / seconds
    for split in splits:
        slides = read_slides(datamodule.files(SPLIT_FILES[split]))
        row = final[split].row.numpy()
        patches = datamodule.datasets[SPLIT_FILES[split]].pixels
        others: dict[str, Any] = {
            name: values[row]
            for name, values in measure(patches).items()  # type: ignore[arg-type]
        }
        if tta == "d4":
            others[PLAIN_LOGIT] = plain[split].logit.numpy()
        write_predictions(
            folder / "predictions" / f"{split}.parquet",
            row,
            final[split].label.numpy(),
            final[split].logit.numpy(),
            None if slides is None else slides[row],
            others,
        )
    module.cpu().eval()
    return Inference(module, facts)


def _score(
    parts: dict[str, Any], module: PCamClassifier, datamodule: PCamDataModule, splits: Sequence[str]
) -> tuple[dict[str, Predictions], float]:
    """Predictions, and the seconds they took: loading, network and gathering, without start-up."""
    trainer = assembly.build_trainer(parts)
    if trainer.world_size > 1:
        raise InputError(
            f"trainer.devices: {trainer.world_size} ranks, expected trainer.devices=1 to evaluate"
        )
    seconds = 0.0
    for split in splits:
        run = trainer.validate if split == "val" else trainer.test
        start = time.monotonic()
        run(module, datamodule=datamodule, verbose=False)
        seconds += time.monotonic() - start
        log.info("%s: %d patches predicted", split, len(module.predictions[split].row))
    return module.predictions, seconds
