"""A trained model: the network of a run or a checkpoint, with its weights and its threshold."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from hydra.utils import instantiate
from torch import nn

from pcam_lightning.config import build, schema
from pcam_lightning.config.compose import Config
from pcam_lightning.config.targets import check_foreign
from pcam_lightning.engine.checkpoints import load_weights
from pcam_lightning.engine.module import PCamClassifier
from pcam_lightning.errors import InputError
from pcam_lightning.models.tta import D4TTA
from pcam_lightning.runs import Run
from pcam_lightning.runs.run import is_run_folder
from pcam_lightning.runs.threshold import Threshold


@dataclass(frozen=True)
class TrainedModel:
    """A network with trained weights, in evaluation mode, on the CPU."""

    network: nn.Module
    """uint8 [N, 96, 96, 3] to logits [N]."""
    checkpoint: Path
    run: Run | None
    """The run that the checkpoint lies in; None where it lies elsewhere."""
    threshold: Threshold | None
    """The run's stored threshold, if it was chosen for this kind of test-time augmentation."""


def load_trained(command: str, config: Config, overrides: Iterable[str], tta: str) -> TrainedModel:
    """Load the model that `run=` or `checkpoint=` names.

    Args:
        command: whose schema the config has to satisfy with the run's model in it.
        config: with `run`, `checkpoint` and `model`.
        overrides: of the command line; a model named there replaces the run's.
        tta: "none", or "d4" for the mean logit over eight orientations.

    Raises:
        InputError: the run or checkpoint is missing, damaged or of another network, or the run's
            model is none of this package's.
    """
    if config["run"] is not None:
        run: Run | None = Run(config["run"])
        checkpoint = run.best_checkpoint  # type: ignore[union-attr]
    else:
        checkpoint = Path(config["checkpoint"])
        if not checkpoint.is_file():
            raise InputError(f"checkpoint={checkpoint}: no such file, expected one like best.ckpt")
        folder = checkpoint.absolute().parent.parent
        run = Run(folder) if is_run_folder(folder) else None
    named = any(each.lstrip("+~").startswith(("model=", "model.")) for each in overrides)
    if run is not None and not named:
        config = config | {"model": _model_of(command, run, config)}
    build.check_arguments(config["model"], "model")
    module = PCamClassifier(instantiate(config["model"]))
    load_weights(checkpoint, module)
    network = module.model if tta == "none" else D4TTA(module.model)
    threshold = None if run is None else run.threshold
    if threshold is not None and threshold.tta != tta:
        threshold = None
    return TrainedModel(network.eval(), checkpoint, run, threshold)


def _model_of(command: str, run: Run, config: Config) -> Config:
    """Return the run's `model` section, checked: a run folder may come from a stranger."""
    path = run.path / "manifest.json"
    recorded = run.manifest.get("config", {})
    if "model" not in recorded:
        raise InputError(f"{path}: no config.model, expected a run of train")
    check_foreign(recorded, ["model"], str(path))
    try:
        schema.check(command, config | {"model": recorded["model"]})
    except InputError as error:
        raise InputError(f"{path}: config.{error}") from None
    return recorded["model"]
