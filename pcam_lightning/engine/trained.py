"""Networks with trained weights, from run folders, checkpoints and bundles."""

from pathlib import Path

from torch import nn

from pcam_lightning.engine.checkpoints import load_safetensors, load_weights
from pcam_lightning.engine.module import PCamClassifier
from pcam_lightning.errors import InputError
from pcam_lightning.models.build import build_network
from pcam_lightning.models.pretrained import frozen_keys
from pcam_lightning.runs import Run
from pcam_lightning.runs.bundle import CHECKSUMS, METADATA, Bundle
from pcam_lightning.runs.run import is_run_folder
from pcam_lightning.weights.state import load_recorded


def load_network(path: Path, model: nn.Module | None = None) -> nn.Module:
    """Return a network with trained weights; see `PCamClassifier.load`."""
    if path.suffix == ".zip" or (path / CHECKSUMS).is_file():
        bundle = Bundle(path)
        if model is None:
            model = build_network(bundle.metadata.model, f"{path}: {METADATA}: model")
        load_safetensors(bundle.weights(), model, str(path))
        return model
    if not path.exists():
        raise InputError(f"{path}: no such file, expected a run folder, a checkpoint or a bundle")
    checkpoint = Run(path).best_checkpoint if path.is_dir() else path
    if model is None:
        model = _recorded_network(checkpoint)
    load_weights(checkpoint, PCamClassifier(model))
    return model


def _recorded_network(checkpoint: Path) -> nn.Module:
    """Return the network that the run around a checkpoint names, with new weights."""
    folder = checkpoint.absolute().parent.parent
    if not is_run_folder(folder):
        raise InputError(
            f"{checkpoint}: lies in no run folder, which would name its network; expected the "
            "network as well, such as PCamClassifier.load(path, model=CNN())"
        )
    manifest = folder / "manifest.json"
    recorded = Run(folder).manifest
    if backbone := recorded.get("backbone"):
        network = build_network(backbone["network"], f"{manifest}: backbone.network")
        if frozen_keys(network):
            load_recorded(network, backbone, str(manifest))  # type: ignore[arg-type]
        return network
    description = recorded.get("config", {}).get("model")
    if description is None:
        raise InputError(f"{manifest}: no config.model, expected a run of train")
    return build_network(description, f"{manifest}: config.model")
