"""Features of the three splits of a data set, computed once or found."""

import copy
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from lightning import Fabric
from numpy.typing import NDArray
from torch import nn

from pcam_lightning.config.compose import Config
from pcam_lightning.data import PCamDataModule
from pcam_lightning.data.cache import VERSION as CLEANING_VERSION
from pcam_lightning.data.files import SPLITS
from pcam_lightning.data.identity import content_digest
from pcam_lightning.data.scale import check_scales
from pcam_lightning.models import Normalize
from pcam_lightning.models.pretrained import frozen_keys
from pcam_lightning.probe.extraction import Extractor
from pcam_lightning.probe.features import FeatureFile
from pcam_lightning.weights.state import weights_digest

FOLDER = ".features"
"""Folder of feature files beside the data."""
NO_EFFECT = {
    "weights",
    "dropout",
    "tune",
    "backbone_rate",
    "layer_decay",
    "frozen_layers",
    "lora_rank",
    "lora_targets",
}
"""Arguments of a network that do not change the features of its frozen backbone."""


class Split(NamedTuple):
    """A split's rows with their features."""

    path: Path
    """File of the features of all rows of the split's H5 file."""
    row: NDArray[np.int64]
    """[N], rows in the H5 file, ascending."""
    label: NDArray[np.int64]
    """[N], 0 or 1."""


class Features(NamedTuple):
    """The features of a data set."""

    train: Split
    """Without the rows that `data.filter` and `data.exclude` leave out."""
    val: Split
    test: Split
    facts: dict[str, Any]
    """For the summary: width, seconds, and by split "computed" or "reused" and the file."""


def compute_features(
    network: nn.Module,
    backbone: Mapping[str, Any] | None,
    datamodule: PCamDataModule,
    fabric: Fabric,
    config: Config,
) -> Features:
    """Find the features of every split, or compute and store them.

    Args:
        network: with `features` and `head`; moved to the device if features are computed.
        backbone: facts of its pretrained weights, as from `build_network`.
        datamodule: after `setup`.
        fabric: device and precision.
        config: config of the command.

    Raises:
        InputError: a feature is not finite, or the folder of the features cannot be used.
    """
    start = time.monotonic()
    common = describe_backbone(network, backbone, config)
    width: int = network.head.in_features  # type: ignore[assignment,union-attr]
    scale = check_scales(datamodule.splits, datamodule.scale)
    found: dict[str, tuple[Path, bool]] = {}
    extractor, batch_size = None, datamodule.batch_size
    files = {}
    for split in SPLITS:
        source = datamodule.files(split)
        chosen = config["probe"]["features_dir"]
        pixels = {"content": content_digest(source, "x"), "cleaning": CLEANING_VERSION}
        files[split] = FeatureFile(
            source.images,
            Path(chosen).expanduser() if chosen else source.cache_dir or source.root / FOLDER,
            {**common, "pixels": pixels | {"scale": str(scale)}},
            (datamodule.datasets[split].patches.rows, width),
        )
    for split, file in files.items():
        if path := file.find():
            found[split] = path, False
            continue
        extractor = extractor or Extractor(_to_compute(network, config), batch_size, fabric)
        found[split] = file.make(extractor, datamodule.datasets[split].pixels)
    parts = {}
    for split, (path, _) in found.items():
        dataset = datamodule.datasets[split]
        parts[split] = Split(path, dataset.rows, dataset.labels)
    facts = {
        "width": width,
        "seconds": time.monotonic() - start,
        "splits": {
            {"valid": "val"}.get(split, split): "computed" if computed else "reused"
            for split, (_, computed) in found.items()
        },
        "folder": str(files["train"].folder),
    }
    return Features(parts["train"], parts["valid"], parts["test"], facts)


def _to_compute(network: nn.Module, config: Config) -> nn.Module:
    """Return the network, or a copy where the precision replaces its weights by rounded ones."""
    precision = str(config["trainer"]["precision"])
    is_converted = precision.endswith("-true") and precision != "32-true"
    return copy.deepcopy(network) if is_converted else network


def describe_backbone(
    network: nn.Module, backbone: Mapping[str, Any] | None, config: Config
) -> dict[str, Any]:
    """Return everything but the pixels that the features of a network depend on."""
    digest = (backbone or {}).get("digest")
    if digest is None:  # new weights: their values depend on the seed
        state = network.state_dict()
        keys = frozen_keys(network) or {key for key in state if not key.startswith("head.")}
        digest = weights_digest({key: state[key] for key in keys})
    model = (backbone or {}).get("network") or config["model"]
    layer = getattr(network, "normalize", None)
    known = isinstance(layer, Normalize)
    return {
        "weights": digest,
        "network": {key: value for key, value in model.items() if key not in NO_EFFECT},
        "mean": layer.mean.flatten().tolist() if known else None,
        "std": layer.std.flatten().tolist() if known else None,
        "precision": str(config["trainer"]["precision"]),
    }
