"""A small bundle whose model needs no training: the mean of the pixels through a sigmoid."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from pcam_lightning.bundle.archive import travel_files
from pcam_lightning.bundle.golden import golden_files
from pcam_lightning.bundle.wheels import requirements_txt
from pcam_lightning.files import encode_json
from pcam_lightning.runs.bundle_metadata import BundleMetadata, Golden
from pcam_lightning.runs.threshold import Threshold

THRESHOLD = Threshold(
    value=0.5,
    rule="fixed",
    temperature=1.5,
    tta="none",
    checkpoint="best.ckpt",
    weights_digest="0a",
    dataset={"name": "demo"},
    validation={},
)
METADATA = BundleMetadata(
    version="0.1.0",
    changelog={"0.1.0": "first"},
    pytorch_version="2.14.1",
    numpy_version="2.4.6",
    required_packages_version={"onnxruntime": "1.20"},
    optional_packages_version={},
    task="Classify patches",
    description="Mean of the pixels",
    model={"_target_": "pcam_lightning.models.CNN", "channels": [4, 4], "center_max": True},
    tta="none",
    temperature=1.5,
    threshold=THRESHOLD,
    decision_threshold=0.5,
    weights_digest="0a",
    golden=Golden(count=4),
    package_version="0.1.0",
    commit=None,
)
FEATURES = {"patches": 2, "quantiles": {"hue": [300.0, 310.0]}}


def predict(patches: np.ndarray) -> np.ndarray:
    """Return the probabilities that `tiny_onnx` returns, by NumPy."""
    return 1 / (1 + np.exp(-(patches.mean((1, 2, 3)) - 128) / 32))


def tiny_onnx() -> bytes:
    """Return a model in the format of a bundle's `models/model.onnx`."""
    constants = {
        "center": np.float32(128),
        "scale": np.float32(32),
        "axes": np.array([1, 2, 3], np.int64),
    }
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels", "axes"], ["mean"], keepdims=0),
        helper.make_node("Sub", ["mean", "center"], ["centered"]),
        helper.make_node("Div", ["centered", "scale"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["probability"]),
    ]
    graph = helper.make_graph(
        nodes,
        "mean",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", 96, 96, 3])],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["n"])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    opset = helper.make_opsetid("", 18)
    return helper.make_model(graph, opset_imports=[opset], ir_version=9).SerializeToString()


def patches_of(count: int, seed: int = 0) -> np.ndarray:
    """Return patches of noise around different gray levels, uint8 [count, 96, 96, 3]."""
    generator = np.random.default_rng(seed)
    levels = np.linspace(40, 210, count).reshape(-1, 1, 1, 1)
    return (levels + generator.integers(-40, 41, (count, 96, 96, 3))).astype(np.uint8)


def bundle_files(metadata: Mapping[str, Any] | None = None) -> dict[str, bytes | Path]:
    """Return the files of a complete bundle; `metadata` changes keys of its metadata."""
    patches = patches_of(4)
    return {
        **travel_files(),
        **golden_files(patches, predict(patches)),
        "LICENSE": b"MIT\n",
        "docs/README.md": b"# Model card\n",
        "docs/model_card.html": b"<p>Model card</p>\n",
        "configs/metadata.json": encode_json({**METADATA.model_dump(), **(metadata or {})}),
        "configs/config.yaml": b"seed: 0\n",
        "configs/features.json": encode_json(FEATURES),
        "models/model.onnx": tiny_onnx(),
        "models/model.safetensors": b"weights",
        "requirements.txt": requirements_txt(),
        "requirements.lock": b"a==1 --hash=sha256:00\n",
        "wheels/a-1-py3-none-any.whl": b"wheel",
    }
