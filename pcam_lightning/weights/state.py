"""State dicts: reading them from files, comparing them with a network, their digest."""

import hashlib
import logging
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import safetensors.torch
import torch
from torch import Tensor

from pcam_lightning.errors import InputError, one_line
from pcam_lightning.weights.structure import read_early_structure, read_structure

WRAPPERS = ("state_dict", "model", "teacher")
"""Keys below which training scripts save a state dict."""
PREFIX = re.compile(r"^(module\.|_orig_mod\.)+")
"""Added to every name by DistributedDataParallel and torch.compile."""
DENSE = re.compile(r"^(.*denselayer\d+\.(?:norm|conv))\.(\d\.\w+)$")
"""Names of torchvision's DenseNet before 2018, which its published weights still have."""

log = logging.getLogger(__name__)


class Pretrainable(Protocol):
    """A network whose backbone takes published weights."""

    def backbone_state(self) -> dict[str, Tensor]:
        """Return the backbone's weights and buffers by their published names."""
        ...

    def is_classifier(self, key: str) -> bool:
        """Return whether a published weight belongs to the classifier, which is not used."""
        ...

    def load_backbone(self, state: Mapping[str, Tensor]) -> None:
        """Copy weights of the names and shapes that a new network has."""
        ...


def read_state(path: Path) -> dict[str, Tensor]:
    """Return the tensors in a safetensors file or in a file of torch.save, on the CPU.

    No code from the file runs: safetensors holds none, and a pickle is read by
    `torch.load(weights_only=True)`.

    Raises:
        InputError: the file is missing or damaged, or holds more than named tensors.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file, expected weights (.safetensors, .pth, .bin)")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        if zipfile.is_zipfile(path):
            read_structure(path)
        else:
            read_early_structure(path)
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except InputError:
        raise
    except Exception as error:  # each library raises its own kinds for a damaged file
        reason = one_line(error, 200)
        raise InputError(
            f"{path}: damaged, or holds more than tensors ({reason}); expected weights"
        ) from None
    for key in WRAPPERS:
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if not isinstance(found, dict) or not found:
        raise InputError(f"{path}: holds a {type(found).__name__}, expected named tensors")
    for key, value in found.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise InputError(f"{path}: {one_line(key, 60)} is no tensor, expected named tensors")
    return {PREFIX.sub("", key): value for key, value in found.items()}


def load_pretrained(network: Pretrainable, state: Mapping[str, Tensor], where: object) -> None:
    """Load published weights into the backbone of a network.

    Names from another library are accepted if all names differ, and the tensors have the shapes of
    the network's in the same order; this is logged.

    Args:
        network: its backbone is overwritten.
        state: as from `read_state`; the weights of a classifier are ignored.
        where: the file, for the message.

    Raises:
        InputError: the weights belong to another network.
    """
    expected = network.backbone_state()
    found = {DENSE.sub(r"\1\2", key): value for key, value in state.items()}
    if found.keys().isdisjoint(expected):
        found = _matched_by_order(found, expected, where)
    for key, own in expected.items():
        if key.endswith(".num_batches_tracked"):  # not in weights of early versions of torch
            found.setdefault(key, own.detach())
    others = [key for key in found if key not in expected and not network.is_classifier(key)]
    try:
        if others:
            missing = next((key for key in expected if key not in found), None)
            instead = f", and no {missing}" if missing else ""
            raise ValueError(f"{one_line(others[0], 60)} is not in it{instead}")
        network.load_backbone(found)
    except ValueError as error:
        raise InputError(f"{where}: weights of another network: {error}") from None


def load_recorded(network: Pretrainable, backbone: Mapping[str, Any], where: str) -> None:
    """Load the pretrained weights that a manifest's `backbone` names.

    Raises:
        InputError: the file is gone, damaged or of another network.
    """
    file = backbone.get("file")
    if not isinstance(file, str) or not Path(file).is_file():
        raise InputError(
            f"{where}: its checkpoint holds no backbone, since it was frozen, and {file} with the "
            f"weights of {backbone.get('name')} is not there; expected this file, or model=timm "
            "model.name=NAME model.weights=FILE model.tune=head or lora"
        )
    load_pretrained(network, read_state(Path(file)), file)


def _matched_by_order(
    state: Mapping[str, Tensor], expected: Mapping[str, Tensor], where: object
) -> dict[str, Tensor]:
    """Return tensors under the names of `expected`; `state` itself if their shapes differ.

    At most two tensors, those of a classifier, may follow the others.
    """
    values = list(state.values())
    rest = len(values) - len(expected)
    if not 0 <= rest <= 2:
        return dict(state)
    pairs = zip(values, expected.values(), strict=False)
    if any(ours.shape != theirs.shape for ours, theirs in pairs):
        return dict(state)
    log.warning(
        "%s: its names are those of another library; its %d tensors have the network's shapes in "
        "the same order, and are loaded in this order",
        where,
        len(expected),
    )
    return dict(zip(expected, values, strict=False))


def difference(state: Mapping[str, Any], expected: Mapping[str, Tensor], name: str) -> str | None:
    """Return the first difference in names and shapes of two state dicts, or None.

    Args:
        state: as found.
        expected: of the network called `name`.
    """
    for key, tensor in expected.items():
        if key not in state:
            others = [other for other in state if other not in expected]
            instead = f"it has {others[0]} instead, " if others else ""
            return f"no {key}, {instead}expected the weights of {name}"
        if state[key].shape != tensor.shape:
            found, wanted = list(state[key].shape), list(tensor.shape)
            return f"{key} is {found}, expected {wanted} as in {name}"
    return next((f"{key} is not in {name}" for key in state if key not in expected), None)


def weights_digest(state: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 (hex) of a state dict's names, shapes, dtypes and bytes."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu()
        digest.update(f"{name}|{tuple(tensor.shape)}|{tensor.dtype}|".encode())
        # NumPy has no bfloat16, and a scalar tensor has no axis to view as bytes.
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
