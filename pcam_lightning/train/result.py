"""Scores of a training's best checkpoint, and the speed of the training."""

from pathlib import Path
from typing import Any

from lightning import Callback, Trainer
from lightning.pytorch.callbacks import WeightAveraging

from pcam_lightning.data import PCamDataModule
from pcam_lightning.engine.callbacks import Throughput
from pcam_lightning.engine.checkpoints import load_weights
from pcam_lightning.engine.module import PCamClassifier


def score_best(trainer: Trainer, module: PCamClassifier, datamodule: PCamDataModule) -> str | None:
    """Predict val and test with the best checkpoint, and return its path.

    The predictions are in `module.predictions`. Without a checkpoint callback, the current weights
    predict, and the path is None.
    """
    paths = [getattr(each, "best_model_path", None) for each in trainer.checkpoint_callbacks]
    best = next((path for path in paths if path), None)
    # Not by `ckpt_path`, and without callbacks that average weights: they (Lightning 2.6) put the
    # average back for validation only, and test would score the weights of the last step.
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    scoring = [each for each in callbacks if not isinstance(each, WeightAveraging)]
    trainer.callbacks = scoring  # type: ignore[attr-defined]
    if best:
        load_weights(Path(best), module)
    arguments: dict[str, Any] = dict(datamodule=datamodule, verbose=False)
    # The validation metrics of the best epoch are logged already, at their own step.
    loggers, trainer.loggers = trainer.loggers, []
    trainer.validate(module, **arguments)
    trainer.loggers = loggers
    trainer.test(module, **arguments)
    return best


def training_speed(trainer: Trainer) -> dict[str, float | None]:
    """Return training patches per second, and the share of time spent waiting for data.

    Both are means over all epochs since this start; None if not measured.
    """
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    meter = next((each for each in callbacks if isinstance(each, Throughput)), None)
    seconds = meter.seconds if meter else 0.0
    return {
        "training_patches_per_second": meter.patches / seconds if meter and seconds else None,
        "waiting_for_data": meter.waited / seconds if meter and seconds else None,
    }
