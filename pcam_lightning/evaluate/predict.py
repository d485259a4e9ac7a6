"""Predictions of a checkpoint on the validation and test patches."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pcam_lightning.config import build
from pcam_lightning.config.precision import choose_precision
from pcam_lightning.config.trained import load_module
from pcam_lightning.data import PCamDataModule
from pcam_lightning.data.identity import is_fingerprint
from pcam_lightning.data.source import find_source
from pcam_lightning.engine.module import PCamClassifier
from pcam_lightning.engine.predictions import Predictions
from pcam_lightning.errors import InputError
from pcam_lightning.evaluate.analysis import PLAIN_LOGIT
from pcam_lightning.evaluate.attribution import check_attribution
from pcam_lightning.evaluate.stain import StainJittered
from pcam_lightning.evaluate.target import EvaluationTarget
from pcam_lightning.metrics.metrics import compute_metrics
from pcam_lightning.metrics.predictions import sigmoid, write_predictions
from pcam_lightning.models.tta import D4TTA
from pcam_lightning.weights.state import weights_digest

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Inference:
    """Result of predicting the validation and test patches."""

    model: nn.Module
    """The network without augmentation, in evaluation mode, on the CPU."""
    dataset: dict[str, Any]
    """`name`, `root`, `fingerprint` and `files` of the data."""
    tables: dict[str, Path]
    """Split to the file of its predictions table."""
    backbone: dict[str, Any] | None
    """The pretrained weights, as in a manifest."""
    facts: dict[str, Any]
    """`weights_digest`, `precision`, `batch_size`, `threads`, `patches`, `seconds`,
    `patches_per_second`; with augmentation also `tta_seconds` and `tta_cost` (`tta_seconds`
    divided by `seconds`); `stain_jitter`, None or `strength` and, of each split, `auroc` in random
    stain colors and `auroc_without`."""


def infer(target: EvaluationTarget, folder: Path) -> Inference:
    """Predict with a target's checkpoint and write `predictions/` into a folder.

    With `evaluate.tta=d4` the column `logit` is the output of `D4TTA`, and the column
    `logit_without_tta` the output of the network itself. The attribution method is checked before
    any patch is predicted.

    Raises:
        InputError: the checkpoint is damaged or belongs to another network; the data or the device
            is not available; the network does not support the attribution; a logit is not finite.
    """
    config, options, checkpoint = target.config, target.config["evaluate"], target.checkpoint
    assert checkpoint is not None
    build.check_targets(config)
    module = load_module(config, checkpoint, target.run, target.overrides)
    check_attribution(module.model.eval(), options["attribution"])
    digest = weights_digest(module.model.state_dict())
    name, datamodule = _data(target)
    _ = datamodule.slides  # reports a damaged meta file before the predictions
    dataset = {
        "name": name,
        "root": str(datamodule.root),
        "fingerprint": datamodule.fingerprint,
        "files": datamodule.digests,
    }
    recorded = target.dataset.get("fingerprint")
    if recorded is not None and not is_fingerprint(datamodule.splits, recorded):
        log.warning("%s: not the data that the run was trained with", datamodule.root)

    precision = choose_precision(config["trainer"])
    quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "precision": precision}
    parts = {"trainer": config["trainer"] | quiet, "callbacks": {}, "logger": {}}
    plain, seconds = _score(parts, module, datamodule, target.splits)
    patches = sum(len(each.row) for each in plain.values())
    facts: dict[str, Any] = {
        "weights_digest": digest,
        "precision": precision,
        "batch_size": datamodule.batch_size,
        "threads": torch.get_num_threads(),
        "patches": patches,
        "seconds": seconds,
        "patches_per_second": patches / seconds,
    }
    final = plain
    if options["tta"] == "d4":
        augmented = PCamClassifier(D4TTA(module.model))
        final, facts["tta_seconds"] = _score(parts, augmented, datamodule, target.splits)
        facts["tta_cost"] = facts["tta_seconds"] / seconds
    facts["stain_jitter"] = None
    if strength := options["stain_jitter"]:
        jittered = PCamClassifier(StainJittered(module.model, strength))
        found, _ = _score(parts, jittered, datamodule, target.splits)
        facts["stain_jitter"] = {
            "strength": strength,
            "auroc": {split: _auroc(each) for split, each in found.items()},
            "auroc_without": {split: _auroc(each) for split, each in plain.items()},
        }
    tables = {split: folder / "predictions" / f"{split}.parquet" for split in target.splits}
    for split, path in tables.items():
        slides = datamodule.slides[split]
        row, label, logit = (column.numpy() for column in final[split])
        others = {PLAIN_LOGIT: plain[split].logit.numpy()} if final is not plain else {}
        write_predictions(path, row, label, logit, None if slides is None else slides[row], others)
    return Inference(module.model.cpu().eval(), dataset, tables, module.backbone, facts)


def _auroc(predictions: Predictions) -> float:
    """Return the AUROC, NaN with one class."""
    label, probability = predictions.label.numpy(), sigmoid(predictions.logit.numpy())
    return compute_metrics(label, probability)["auroc"]


def _data(target: EvaluationTarget) -> tuple[str, PCamDataModule]:
    """Return the name of the data set, and its data module after `setup`."""
    source = find_source(target.config["data"])
    log.info("dataset: %s, in %s", source.name, source.root)
    datamodule = build.build_datamodule(target.config, source.root)
    for split in target.splits:
        datamodule.setup({"val": "validate", "test": "test"}[split])
    return source.name, datamodule


def _score(
    parts: dict[str, Any], module: PCamClassifier, datamodule: PCamDataModule, splits: Sequence[str]
) -> tuple[dict[str, Predictions], float]:
    """Return predictions by split, and the seconds of loading and computing them."""
    trainer = build.build_trainer(parts)
    if trainer.world_size > 1:
        raise InputError(f"trainer.devices: {trainer.world_size} ranks, expected trainer.devices=1")
    seconds = 0.0
    for split in splits:
        run = trainer.validate if split == "val" else trainer.test
        start = time.monotonic()
        run(module, datamodule=datamodule, verbose=False)
        seconds += time.monotonic() - start
        log.info("%s: %d patches predicted", split, len(module.predictions[split].row))
    return module.predictions, seconds
