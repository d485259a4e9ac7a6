"""Files of a bundle, from an export target."""

import os
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save

from pcam_lightning import __version__
from pcam_lightning.bundle.archive import travel_files
from pcam_lightning.bundle.golden import choose_golden, golden_files
from pcam_lightning.bundle.wheels import RUNTIME, requirements_txt
from pcam_lightning.export.card import write_card
from pcam_lightning.export.comparison import Comparison
from pcam_lightning.export.target import ExportTarget
from pcam_lightning.files import encode_json
from pcam_lightning.runs.bundle import FEATURES, METADATA, WEIGHTS
from pcam_lightning.runs.bundle_metadata import BundleMetadata, Golden
from pcam_lightning.runs.checkout import PACKAGE

LICENSE = next(
    (path for path in (PACKAGE / "LICENSE", PACKAGE.parent / "LICENSE") if path.is_file()),
    PACKAGE / "LICENSE",
)
"""License of the code in a bundle: inside the package in a wheel, beside it in a checkout."""


def collect_files(
    target: ExportTarget, comparisons: Mapping[str, Comparison], folder: Path, golden: int
) -> dict[str, bytes | Path]:
    """Return every file of a bundle but its wheels, by the names in the bundle.

    Args:
        target: the exported model.
        comparisons: as from `export_onnx`.
        folder: with `model.onnx`; the model card is written here.
        golden: number of golden patches.
    """
    names = "README.md", "model_card.html"
    # Without speeds, which differ from run to run, the same run gives the same bundle.
    write_card(folder, target, comparisons, with_speed=False, names=names)
    run, features = target.run, target.run.features
    patches = _golden_files(target, golden)
    state = {
        name: value.detach().cpu().contiguous()
        for name, value in target.served.network.state_dict().items()
    }
    config = _without_folders(run.manifest["config"])
    return {
        "LICENSE": LICENSE,
        "docs/README.md": folder / names[0],
        "docs/model_card.html": folder / names[1],
        METADATA: encode_json(_metadata(target, len(patches) - 1).model_dump()),
        "configs/config.yaml": yaml.safe_dump(config, sort_keys=False).encode(),
        **({FEATURES: encode_json(features)} if features else {}),
        "models/model.onnx": folder / "model.onnx",
        WEIGHTS: save(state),
        **patches,
        "requirements.txt": requirements_txt(),
        **travel_files(),
    }


def _golden_files(target: ExportTarget, count: int) -> dict[str, bytes]:
    image, label = target.validation
    logit = target.tables["val"].sort_values("row")["logit"]
    patches = image[choose_golden(logit, label, count)]
    with torch.inference_mode():
        probability = target.served(torch.from_numpy(patches)).numpy()
    return golden_files(patches, probability)


def _metadata(target: ExportTarget, golden: int) -> BundleMetadata:
    run, threshold = target.run, target.threshold
    manifest, summary = run.manifest, run.summary
    dataset = manifest.get("dataset", {}).get("name", "not stated")
    packages = ("hydra-core", "lightning", "torch", "torchvision")
    return BundleMetadata(
        version="1.0.0",
        changelog={"1.0.0": "first version"},
        pytorch_version=version("torch"),
        numpy_version=version("numpy"),
        required_packages_version={
            name: least for name, _, least in (each.partition(">=") for each in RUNTIME)
        },
        optional_packages_version={each: version(each) for each in packages},
        task="Classify H&E patches of lymph nodes: tumour in the center 32 x 32 pixels or not",
        description=f"{target.model_name} trained on {dataset}",
        model=dict(target.network),
        tta="none",
        temperature=threshold.temperature if threshold else None,
        prior_offset=target.served.prior_offset,
        threshold=threshold,
        decision_threshold=target.decision_threshold,
        weights_digest=summary["weights_digest"],
        golden=Golden(count=golden),
        backbone=target.backbone,
        package_version=__version__,
        commit=(manifest.get("git") or {}).get("commit"),
    )


def _without_folders(value: Any) -> Any:
    """Return a config in which folders of this machine are None."""
    if isinstance(value, dict):
        return {key: _without_folders(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_without_folders(each) for each in value]
    is_path = isinstance(value, str) and os.path.isabs(value.removeprefix("local-dir:"))
    return None if is_path else value
