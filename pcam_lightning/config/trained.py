"""A trained model: the network of a run, checkpoint or bundle, its weights and its threshold."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pcam_lightning.config import schema
from pcam_lightning.config.compose import Config
from pcam_lightning.config.targets import check_foreign
from pcam_lightning.errors import InputError
from pcam_lightning.runs import Run
from pcam_lightning.runs.run import is_run_folder
from pcam_lightning.runs.threshold import Threshold
from pcam_lightning.weights.license import license_facts

if TYPE_CHECKING:
    from torch import nn

    from pcam_lightning.engine.module import PCamClassifier
    from pcam_lightning.runs.bundle import Bundle


@dataclass(frozen=True)
class TrainedModel:
    """A network with trained weights, in evaluation mode, on the CPU."""

    network: "nn.Module"
    """uint8 [N, 96, 96, 3] to logits [N]."""
    source: Path
    """The checkpoint or the bundle."""
    run: Run | None
    """The run that the checkpoint lies in; None where it lies elsewhere."""
    threshold: Threshold | None
    """The stored threshold, if it was chosen for this kind of test-time augmentation."""
    features: dict[str, Any] | None
    """The appearance of the training patches (see `metrics.drift`), if it was stored."""
    prior_offset: float
    """Correction of logits for the share of tumour in training (see `metrics.calibration`)."""
    backbone: Mapping[str, Any] | None = None
    """Name, license and digest of the pretrained weights; None if there are none."""

    @property
    def temperature(self) -> float | None:
        """The temperature of the logits; None if none was chosen."""
        return None if self.threshold is None else self.threshold.temperature


def find_checkpoint(config: Config) -> tuple[Path, Run | None]:
    """Return the checkpoint that `run=` or `checkpoint=` names, and the run that it lies in.

    Raises:
        InputError: there is no such run or file, or the run has no checkpoint.
    """
    if config["run"] is not None:
        run = Run(config["run"])
        return run.best_checkpoint, run
    checkpoint = Path(config["checkpoint"])
    if not checkpoint.is_file():
        raise InputError(
            f"checkpoint={checkpoint}: no such file, expected a checkpoint such as best.ckpt"
        )
    return checkpoint, enclosing_run(checkpoint.absolute().parent.parent)


def enclosing_run(folder: Path) -> Run | None:
    """Return the run in a folder, None where it holds none."""
    return Run(folder) if is_run_folder(folder) else None


def model_config(config: Config, run: Run | None, overrides: Iterable[str]) -> Config:
    """Return the section `model` of the command line where it names one, else that of the run.

    For a run with pretrained weights, it is the recorded description of the network, which names
    no place of weights.

    Raises:
        InputError: the run has none, or its model is not of this package.
    """
    if run is None or is_named("model", overrides):
        return config["model"]
    path, manifest = run.path / "manifest.json", run.manifest
    recorded = manifest.get("config", {})
    if backbone := manifest.get("backbone"):
        recorded = {"model": backbone["network"]}
    if "model" not in recorded:
        raise InputError(f"{path}: no config.model, expected a run of train")
    check_foreign(recorded, ["model"], str(path))
    return recorded["model"]


def is_named(section: str, overrides: Iterable[str]) -> bool:
    """Return whether overrides of the command line choose or change a section of the config."""
    return any(each.lstrip("+~").startswith((f"{section}=", f"{section}.")) for each in overrides)


def load_trained(config: Config, overrides: Iterable[str] = (), tta: str = "none") -> TrainedModel:
    """Load the model that `bundle=`, `run=` or `checkpoint=` names.

    Args:
        config: with `run`, and `bundle`, `checkpoint` and `model` where no run is named.
        overrides: of the command line; a model named there replaces the run's.
        tta: "none", or "d4" for the mean logit over eight orientations.

    Raises:
        InputError: the bundle, run or checkpoint is missing, damaged or of another network, or the
            model is not of this package.
    """
    if config.get("bundle") is not None:
        return _load_bundle(Path(config["bundle"]), tta)
    checkpoint, run = find_checkpoint(config)
    module = load_module(config, checkpoint, run, overrides)
    trained = _trained(module.model, checkpoint, tta, run, run, recorded_prior_offset(run))
    return replace(trained, backbone=license_facts(module.backbone))


def load_module(
    config: Config, checkpoint: Path, run: Run | None, overrides: Iterable[str] = ()
) -> "PCamClassifier":
    """Return the module of a checkpoint.

    Its backbone, if it was frozen, comes from the weights that the section `model` names on the
    command line, else from the file that the run records, whose digest must be the same.

    Args:
        config: with `model` where no run is given.
        checkpoint: file of the weights.
        run: run that the checkpoint lies in.
        overrides: of the command line; a model named there replaces the run's.

    Raises:
        InputError: the checkpoint is damaged or of another network, its backbone is not there, or
            the model is not of this package.
    """
    from pcam_lightning.config import build
    from pcam_lightning.config.construct import construct
    from pcam_lightning.config.network import build_network, constructor_arguments
    from pcam_lightning.engine.checkpoints import load_weights
    from pcam_lightning.engine.module import PCamClassifier
    from pcam_lightning.models.pretrained import frozen_keys
    from pcam_lightning.weights.state import load_recorded

    model = model_config(config, run, overrides)
    where = f"{run.path}/manifest.json" if run else ""
    try:
        schema.check_model(model)
    except InputError as error:
        raise InputError(f"{where}: config.{error}" if run else str(error)) from None
    build.check_arguments(constructor_arguments(model), "model")
    recorded = None if run is None else run.manifest.get("backbone")
    if recorded is None or is_named("model", overrides):
        network, backbone = build_network(model, pretrained=model.get("tune", "full") != "full")
    else:
        network, backbone = construct(model, "model"), recorded
        if frozen_keys(network):
            load_recorded(network, backbone, where)  # type: ignore[arg-type]
    module = PCamClassifier(network, backbone=backbone)
    load_weights(checkpoint, module)
    return module


def _load_bundle(path: Path, tta: str) -> TrainedModel:
    from pcam_lightning.config import build
    from pcam_lightning.config.construct import construct
    from pcam_lightning.config.network import constructor_arguments
    from pcam_lightning.engine.checkpoints import load_safetensors
    from pcam_lightning.runs.bundle import METADATA, Bundle

    bundle = Bundle(path)
    model, where = bundle.metadata.model, f"{path}: {METADATA}"
    check_foreign({"model": model}, ["model"], where)
    model = constructor_arguments(model)
    try:
        schema.check_model(model)
        build.check_arguments(model, "model")
        network = construct(model, "model")
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    load_safetensors(bundle.weights(), network, str(path))
    trained = _trained(network, path, tta, None, bundle, bundle.metadata.prior_offset)
    return replace(trained, backbone=bundle.metadata.backbone)


def recorded_prior_offset(run: Run | None) -> float:
    """Return the correction of a run's logits for the share of tumour in training.

    It is 0.0 for a run that drew its training patches as they are, and where nothing is recorded.
    """
    from pcam_lightning.metrics.calibration import prior_offset

    if run is None:
        return 0.0
    try:
        summary, config = run.summary, run.manifest.get("config", {})
        recorded = summary.get("prior_offset")  # in the summary of an evaluation
        if isinstance(recorded, float) and math.isfinite(recorded):
            return recorded
        if config["data"]["sampler"] != "balanced":
            return 0.0
        return prior_offset(summary["val"]["train_prevalence"], 0.5)
    except (InputError, KeyError, TypeError):
        return 0.0


def _trained(
    network: "nn.Module",
    source: Path,
    tta: str,
    run: Run | None,
    known: "Run | Bundle | None",
    prior_offset: float,
) -> TrainedModel:
    from pcam_lightning.models.tta import D4TTA

    network = network if tta == "none" else D4TTA(network)
    threshold = None if known is None else known.threshold
    if threshold is not None and threshold.tta != tta:
        threshold = None
    features = None if known is None else known.features
    if threshold is not None:
        prior_offset = threshold.prior_offset  # the temperature was fitted with it
    return TrainedModel(network.eval(), source, run, threshold, features, prior_offset)
