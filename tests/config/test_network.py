"""A network from a section `model`: weights, statistics, license, and a description of it."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from weight_files import STATISTICS, new_state, write_repository, write_state

from pcam_lightning.config.network import build_network
from pcam_lightning.errors import InputError
from pcam_lightning.models.build import build_network as build_recorded
from pcam_lightning.weights.source import TIMM
from pcam_lightning.weights.state import weights_digest

RESNET = "pcam_lightning.models.resnet18"


def section(folder: Path, **given: Any) -> dict[str, Any]:
    return {"_target_": TIMM, "name": f"local-dir:{folder}", "weights": "pretrained"} | given


@pytest.mark.parametrize("tune", ["full", "head", "lora"])
@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_a_network_has_the_weights_and_statistics_of_its_publisher(
    tmp_path: Path, name: str, tune: str
) -> None:
    state = write_repository(tmp_path / "w", name, license="mit")
    model = section(tmp_path / "w", tune=tune, size="native", lora_targets=None)
    network, backbone = build_network(model)
    own = network.backbone_state()  # type: ignore[operator]
    assert own and all(torch.equal(own[key], state[key]) for key in own)
    found = [network.normalize.mean, network.normalize.std]  # type: ignore[union-attr]
    for value, expected in zip(found, STATISTICS.values(), strict=True):
        torch.testing.assert_close(value.flatten(), torch.tensor(expected))  # type: ignore[union-attr]
    assert backbone is not None
    assert backbone["file"] == str((tmp_path / "w" / "model.safetensors").absolute())
    assert backbone["digest"] == weights_digest(state)
    assert (backbone["name"], backbone["license"]) == (model["name"], "mit")


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"tune": "lora", "lora_targets": r".*0\.mlp.*"},
        {"size": 224, "interpolation": "bilinear"},
        {"arguments": {"depth": 2}},
    ],
    ids=str,
)
def test_the_description_builds_the_same_network_without_the_files(
    tmp_path: Path, given: dict[str, Any]
) -> None:
    arguments = {"reg_tokens": 2} | given.get("arguments", {})
    write_repository(tmp_path / "w", "test_vit", model_args=arguments)
    model = section(tmp_path / "w", size="auto", lora_targets=None) | given
    network, backbone = build_network(model)
    assert backbone is not None
    description = json.loads(json.dumps(backbone["network"]))
    assert str(tmp_path) not in str(description)
    again: Any = build_recorded(description, "manifest.json: backbone.network")
    again.load_state_dict(network.state_dict())
    image = torch.randint(0, 256, (2, 96, 96, 3), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(again.eval()(image), network.eval()(image))


def test_given_arguments_replace_those_of_the_publisher(tmp_path: Path) -> None:
    write_repository(
        tmp_path / "w", "test_vit", model_args={"depth": 3, "reg_tokens": 2},
        interpolation="bicubic",
    )  # fmt: skip
    given = {"weights": None, "arguments": {"depth": 1}, "interpolation": "bilinear"}
    network: Any = build_network(section(tmp_path / "w", **given)).model
    assert len(network.backbone.blocks) == 1 and network.backbone.num_reg_tokens == 2
    assert network.interpolation == "bilinear"


@pytest.mark.parametrize(
    ("license", "level", "named"),
    [
        ("mit", logging.INFO, "mit"),
        ("cc-by-nc-nd-4.0", logging.WARNING, "non-commercial"),
        (None, logging.INFO, "not stated"),
    ],
)
def test_the_license_is_logged(tmp_path: Path, caplog, license, level: int, named: str) -> None:
    write_repository(tmp_path / "w", license=license)
    with caplog.at_level(logging.INFO):
        build_network(section(tmp_path / "w"))
    (record,) = [each for each in caplog.records if each.getMessage().startswith("license")]
    assert record.levelno == level and named in record.getMessage()


@pytest.mark.parametrize("file", ["x.safetensors", "x.pth"])
def test_weights_from_a_file(tmp_path: Path, file: str) -> None:
    state = new_state("test_vit", seed=3)
    write_state(tmp_path / file, state)
    model = {"_target_": TIMM, "name": "test_vit", "weights": str(tmp_path / file)}
    network, backbone = build_network(model | {"size": "native"})
    own = network.backbone_state()  # type: ignore[operator]
    assert all(torch.equal(own[key], state[key]) for key in own)
    assert backbone is not None and backbone["license"] is None


def test_new_weights_have_no_file() -> None:
    model = {"_target_": TIMM, "name": "test_vit", "weights": None}
    _, backbone = build_network(model)
    assert backbone is not None and backbone["file"] is None and backbone["digest"] is None
    assert build_network({"_target_": "pcam_lightning.models.MLP"}).backbone is None
    assert build_network({"_target_": RESNET, "weights": None}).backbone is None


def test_a_file_of_torchvision(tmp_path: Path) -> None:
    from torchvision.models import resnet18

    torch.manual_seed(2)
    state = resnet18().state_dict()
    torch.save(state, tmp_path / "x.pth")
    network, backbone = build_network({"_target_": RESNET, "weights": str(tmp_path / "x.pth")})
    assert torch.equal(network.network.layer1[0].conv1.weight, state["layer1.0.conv1.weight"])  # type: ignore
    torch.testing.assert_close(
        network.normalize.mean.flatten(),  # type: ignore[union-attr]
        torch.tensor([0.485, 0.456, 0.406]),
    )
    assert backbone is not None and backbone["network"] == {"_target_": RESNET}


HOSTILE: dict[str, tuple[dict[str, Any], str]] = {
    "a command": ({"block_fn": "os.system"}, "block_fn"),
    "a word for a class": ({"block_fn": "system"}, "test_resnet"),
    "a class of timm": ({"mlp_layer": "os.system"}, "mlp_layer"),
    "a file": ({"checkpoint_path": "/etc/passwd"}, "checkpoint_path"),
    "a config": ({"pretrained_cfg": {"hf_hub_id": "evil/x"}}, "pretrained_cfg"),
    "features": ({"features_only": True}, "features_only"),
    "a target": ({"layers": {"_target_": "os.system", "command": "touch x"}}, "layers"),
    "a module": ({"layers": {"_target_": "strange.Net"}}, "layers"),
    "a module as arguments": ({"_target_": "strange.Net"}, "_target_"),
    "a target as arguments": ({"_target_": "os.system"}, "_target_"),
    "interpolation": ({"act_layer": "${oc.env:HOME}"}, "act_layer"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_config_of_a_stranger_runs_nothing(tmp_path: Path, monkeypatch, name: str) -> None:
    monkeypatch.setattr("os.system", lambda *_: pytest.fail("a command was run"))
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "strange.py").write_text("import pathlib\npathlib.Path(__file__ + 'x').touch()\n")
    arguments, named = HOSTILE[name]
    write_repository(tmp_path / "w")
    path = tmp_path / "w" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_args": arguments}))
    with pytest.raises(InputError) as caught:
        build_network(section(tmp_path / "w"))
    text = str(caught.value)
    assert named in text and "\n" not in text and str(Path.home()) not in text
    assert not (tmp_path / "strange.pyx").exists()


@pytest.mark.parametrize("architecture", ["hf-hub:evil/x", "../x", "local-dir:/etc", "os.system"])
def test_an_architecture_is_a_name_of_timm(tmp_path: Path, architecture: str) -> None:
    write_repository(tmp_path / "w")
    path = tmp_path / "w" / "config.json"
    path.write_text(json.dumps({"architecture": architecture}))
    with pytest.raises(InputError) as caught:
        build_network(section(tmp_path / "w"))
    assert architecture in str(caught.value) and "\n" not in str(caught.value)
