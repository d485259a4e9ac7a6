"""One probe, from a checked config to the files of its folder."""

import logging
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pcam_lightning.cli.command import Config, save_resolved
from pcam_lightning.errors import InputError
from pcam_lightning.files import write_json
from pcam_lightning.runs.manifest import collect_manifest
from pcam_lightning.runs.status import recording
from pcam_lightning.runs.stop_signals import stop_signals

if TYPE_CHECKING:
    from torch import nn

log = logging.getLogger(__name__)


def probe(config: Config) -> Path:
    """Compute or find the features, score them, write the run folder; return `summary.json`.

    Args:
        config: config of `probe`, checked against its schema; replaces `trainer.precision=auto`.

    Raises:
        InputError: the config, the weights or the data cannot be used, or a feature is not finite.
        Preempted: a signal asked to stop; computed features are kept.
    """
    folder = Path(config["run_dir"])
    manifest = collect_manifest(
        command=sys.orig_argv, seed=config["seed"], dataset={}, config=config
    )
    with stop_signals.listening(), recording(folder, manifest):
        _probe(config, folder, manifest)
    from pcam_lightning.results.issues import print_issues

    print_issues(folder)
    return folder / "summary.json"


def _probe(config: Config, folder: Path, manifest: dict[str, Any]) -> None:
    # Heavy imports come after the checks that need none.
    import torch

    from pcam_lightning.cli.licenses import print_license
    from pcam_lightning.config import build
    from pcam_lightning.config.network import build_network
    from pcam_lightning.config.precision import choose_precision
    from pcam_lightning.data.source import find_source
    from pcam_lightning.engine.checkpoints import write_weights
    from pcam_lightning.engine.determinism import determinism
    from pcam_lightning.engine.module import PCamClassifier
    from pcam_lightning.engine.normalization import set_normalization
    from pcam_lightning.probe.report import print_probe, write_probe, write_published
    from pcam_lightning.probe.scores import ProbeOptions, score
    from pcam_lightning.probe.splits import compute_features
    from pcam_lightning.results.files import write_result
    from pcam_lightning.results.terminal import print_result
    from pcam_lightning.seeds import derive_seed
    from pcam_lightning.weights.license import license_facts
    from pcam_lightning.weights.state import weights_digest

    start = time.monotonic()
    _check_network(config["model"])
    build.check_targets(config)
    config["trainer"]["precision"] = choose_precision(config["trainer"])
    save_resolved(config, folder)
    torch.manual_seed(derive_seed(config["seed"], "initialisation"))
    network, backbone = build_network(config["model"])
    fabric = build.build_fabric(config["trainer"])
    source = find_source(config["data"])
    datamodule = build.build_datamodule(config, source.root)
    datamodule.setup()
    _check_classes(datamodule)
    set_normalization(network, datamodule)
    log.info("dataset: %s, in %s", source.name, source.root)
    log.info("run: %s", os.path.relpath(folder))
    dataset = {
        "name": source.name,
        "root": source.root,
        "fingerprint": datamodule.fingerprint,
        "files": datamodule.digests,
    }
    facts = {"dataset": dataset, "determinism": determinism(ranks=1)}
    facts |= {"backbone": backbone} if backbone else {}
    # A later reader finds the config with the precision that was used.
    write_json(folder / "manifest.json", manifest | facts)

    features = compute_features(network, backbone, datamodule, fabric, config)
    options = ProbeOptions.of(config)
    found = score(features, options, fabric.device)
    _set_head(network, found.weight, found.bias)
    network.cpu()
    module = PCamClassifier(network, backbone=backbone)
    write_weights(folder / "checkpoints" / "best.ckpt", module)
    facts = {
        "experiment_name": config["experiment_name"],
        "seed": config["seed"],
        "best_checkpoint": "checkpoints/best.ckpt",
        "weights_digest": weights_digest(network.state_dict()),
        "backbone": license_facts(backbone),
        "probe": {**found.facts, "features": features.facts},
        "seconds": time.monotonic() - start,
    }
    title = f"dataset: {source.name}"
    write_probe(folder, found, title)
    summary = write_result(folder, source.name, datamodule, network, found.predictions, facts)
    print_result(folder, summary, balanced=False)
    name = backbone["name"] if backbone else type(network).__name__
    print_probe(summary, write_published(folder, summary, name))
    print_license(summary["backbone"])


def _check_network(model: Config) -> None:
    """Raise `InputError` if the network of a section `model` has no features."""
    from hydra.utils import get_object

    if not hasattr(get_object(model["_target_"]), "features"):
        raise InputError(
            f"model._target_={model['_target_']}: has no features of a frozen backbone, expected "
            "model=timm model.name=NAME"
        )


def _check_classes(datamodule: Any) -> None:
    for split in ("train", "valid"):
        labels = datamodule.datasets[split].labels
        if len(set(labels.tolist())) < 2:
            raise InputError(
                f"{datamodule.files(split).labels}: the patches are all of one class, expected "
                "both classes, to fit a probe and to choose its penalty"
            )


def _set_head(network: "nn.Module", weight: Any, bias: Any) -> None:
    import torch

    head: Any = network.head
    with torch.no_grad():
        head.weight.copy_(weight[None])
        head.bias.copy_(bias)
