"""Runs on pretrained weights, whose folder may come from a stranger or lack the weights."""

import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from weight_files import new_state, write_state

from pcam_lightning.config.trained import load_trained
from pcam_lightning.engine import PCamClassifier
from pcam_lightning.engine.checkpoints import load_weights
from pcam_lightning.errors import InputError
from pcam_lightning.runs import Run

TUNES = ["full", "head", "lora"]


def patches(run: Run) -> torch.Tensor:
    root = Path(run.manifest["dataset"]["root"])
    with h5py.File(root / "camelyonpatch_level_2_split_test_x.h5") as file:
        return torch.from_numpy(np.asarray(file["x"]))


def config(run: Run) -> dict[str, Any]:
    return {"run": str(run.path), "checkpoint": None}


def faults(run: Run) -> list[str]:
    """Return the lines of both ways to load a run."""
    found = []
    for load in (lambda: load_trained(config(run)), lambda: PCamClassifier.load(run.path)):
        with pytest.raises(InputError) as caught:
            load()
        assert "\n" not in str(caught.value)
        found.append(str(caught.value))
    return found


@pytest.mark.parametrize("tune", TUNES)
def test_a_run_is_loaded_with_its_backbone(tuned_run, tune: str) -> None:
    run = tuned_run(tune)
    expected = run.predictions("test").sort_values("row")["logit"].to_numpy()
    for network in (PCamClassifier.load(run.path).model, load_trained(config(run)).network):
        assert not any(module.training for module in network.modules())
        with torch.no_grad():
            found = network(patches(run)).numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_full_model_needs_no_file(copied_run) -> None:
    assert load_trained(config(copied_run("full", file="/nowhere/x.pth"))).network


@pytest.mark.parametrize("tune", ["head", "lora"])
@pytest.mark.parametrize("kind", ["missing", "pipe", "folder", "none", "damaged", "another"])
def test_a_backbone_that_is_not_there_is_one_line(
    copied_run, tmp_path: Path, tune: str, kind: str
) -> None:
    path = tmp_path / "x.safetensors"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "damaged":
        path.write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{}")
    elif kind == "another":
        write_state(path, new_state("test_efficientnet", seed=9))
    run = copied_run(tune, file=None if kind == "none" else str(path))
    for line in faults(run):
        assert str(run.path) in line or str(path) in line
        assert kind != "another" or "digest" in line


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"_target_": "os.system"}, "os.system"),
        ({"_target_": "strange.Net"}, "strange.Net"),
        ({"_target_": "pcam_lightning.models.build.build_network"}, "build_network"),
        ({"_target_": ["os.system"]}, "_target_"),
        ({"name": "hf-hub:evil/x"}, "hf-hub:evil/x"),
        ({"name": "local-dir:/etc"}, "local-dir:/etc"),
        ({"name": "/etc/passwd"}, "/etc/passwd"),
        ({"name": "../x"}, "../x"),
        ({"name": "test_resnet"}, "best.ckpt"),
        ({"arguments": {"checkpoint_path": "x"}}, "checkpoint_path"),
        ({"arguments": {"act_layer": {"_target_": "strange.Net"}}}, "_target_"),
        ({"arguments": {"_target_": "strange.Net"}}, "_target_"),
        ({"tune": "all"}, "tune"),
    ],
    ids=str,
)
def test_a_network_of_a_stranger_calls_and_opens_nothing_else(
    copied_run, tmp_path: Path, monkeypatch, changes: dict[str, Any], named: str
) -> None:
    monkeypatch.setattr("os.system", lambda *_: pytest.fail("a command was run"))
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "strange.py").write_text("import pathlib\npathlib.Path(__file__ + 'x').touch()\n")
    network = copied_run("full").manifest["backbone"]["network"]
    (tmp_path / "copy").rename(tmp_path / "before")
    run = copied_run("full", network=network | changes)
    lines = faults(run)
    assert any(named in line for line in lines), lines
    assert not (tmp_path / "strange.pyx").exists()


@pytest.mark.parametrize("network", [{}, None, "x", ["x"]], ids=str)
def test_a_damaged_description_is_one_line(copied_run, network: Any) -> None:
    run = copied_run("full", network=network)
    assert all(str(run.path) in line for line in faults(run))


def test_a_checkpoint_of_a_head_does_not_fit_a_full_model(tuned_run) -> None:
    full = PCamClassifier.load(tuned_run("full").path)
    with pytest.raises(InputError, match=r"best\.ckpt: .*backbone"):
        load_weights(tuned_run("head").best_checkpoint, full)


@pytest.mark.parametrize("tune", ["head", "lora"])
def test_another_place_of_the_weights_is_named_on_the_command_line(
    copied_run, composed, tmp_path: Path, tune: str
) -> None:
    state = new_state("test_efficientnet")
    write_state(tmp_path / "moved.pth", state)
    run = copied_run(tune, file="/nowhere/x.safetensors")
    overrides = [
        f"run={run.path}", "model=timm", "model.name=test_efficientnet",
        f"model.weights={tmp_path / 'moved.pth'}", f"model.tune={tune}",
    ]  # fmt: skip
    network = load_trained(composed(overrides, "evaluate"), overrides).network
    expected = run.predictions("test").sort_values("row")["logit"].to_numpy()
    with torch.no_grad():
        found = network(patches(run)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
