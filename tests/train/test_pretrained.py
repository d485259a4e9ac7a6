"""Training on pretrained weights through the command: records, later commands, bad input."""

import json
import os
import pickle
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from weight_files import STATISTICS, new_state, write_repository, write_state

from pcam_lightning.config.trained import load_trained
from pcam_lightning.engine import PCamClassifier
from pcam_lightning.errors import InputError
from pcam_lightning.runs import Run
from pcam_lightning.runs.bundle import Bundle
from pcam_lightning.weights.state import weights_digest

TUNES = ["full", "head", "lora"]


@pytest.mark.parametrize("tune", TUNES)
def test_a_run_records_its_backbone(tuned_run, tune: str) -> None:
    run = tuned_run(tune)
    weights = run.path.parent / "weights"
    backbone = run.manifest["backbone"]
    assert backbone["file"] == str(weights / "model.safetensors")
    assert backbone["license"] == "mit" and backbone["name"] == f"local-dir:{weights}"
    assert backbone["digest"] == weights_digest(new_state("test_efficientnet"))
    assert backbone["network"]["name"] == "test_efficientnet"
    assert (backbone["network"]["size"], backbone["network"]["tune"]) == (96, tune)
    checkpoint = torch.load(run.best_checkpoint, weights_only=True)
    state = checkpoint["state_dict"]
    for key, expected in STATISTICS.items():
        assert state[f"model.normalize.{key}"].flatten().tolist() == pytest.approx(expected)
    assert ("backbone" in checkpoint) == (tune != "full")
    assert any("conv_stem" in key for key in state) == (tune == "full")


@pytest.mark.parametrize("tune", TUNES)
def test_an_evaluation_gives_the_predictions_of_the_run(
    tuned_run, command, tmp_path: Path, tune: str
) -> None:
    run = tuned_run(tune)
    code, out, err = command(
        f"run={run.path}", f"hydra.run.dir={tmp_path / 'again'}",
        "trainer=cpu", "trainer.precision=32-true", name="evaluate",
    )  # fmt: skip
    assert code == 0, out + err
    found = Run(tmp_path / "again").predictions("test").sort_values("row")["logit"].to_numpy()
    expected = run.predictions("test").sort_values("row")["logit"].to_numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


class Runs:
    """An object whose pickle runs a command."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch executed",)


def fault(command, folder: Path, *overrides: str, name: str = "train") -> str:
    """Return the line on stderr of a command that ends with bad input."""
    code, out, err = command(*overrides, f"hydra.run.dir={folder}", name=name)
    assert code == 2, out + err
    (line,) = err.splitlines()
    assert not (folder / "summary.json").exists() and not (folder / "checkpoints").exists()
    return line


@pytest.mark.parametrize("kind", ["pickle", "config", "cut short", "another network", "missing"])
def test_hostile_weights_are_one_line_before_training(
    command, pcam_root: Path, tmp_path: Path, kind: str
) -> None:
    weights = tmp_path / "weights"
    write_repository(weights, file=None)
    if kind == "pickle":
        (weights / "pytorch_model.bin").write_bytes(pickle.dumps({"a": Runs()}))
    elif kind == "another network":
        write_state(weights / "model.safetensors", new_state("test_vit"))
    elif kind != "missing":
        write_state(weights / "model.safetensors", new_state())
    if kind == "cut short":
        path = weights / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-100])
    elif kind == "config":
        content = json.loads((weights / "config.json").read_text())
        content["model_args"] = {"block_fn": {"_target_": "os.system", "command": "touch executed"}}
        (weights / "config.json").write_text(json.dumps(content))
    line = fault(
        command, tmp_path / "run", f"data.root={pcam_root}", "model=timm",
        f"model.name=local-dir:{weights}", "trainer=cpu", "data.batch_size=16",
    )  # fmt: skip
    assert str(weights) in line
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["model.name=nonsense"], "model.name=nonsense"),
        (["model.name=efficientnet_lite9"], "efficientnet_lite"),
        (["model.name=test_vit", "model.weights=null", "model.size=97"], "97"),
        (["model.name=test_vit", "model.weights=null", "model.tune=lora"], "model.weights=null"),
        (["model.name=test_vit", "model.weights=none.pth"], "model.weights=none.pth"),
        (["model.tune=some"], "model.tune="),
        (["model.backbone_rate=0"], "model.backbone_rate=0"),
        (["model.name=test_vit", "model.weights=null", "model.frozen_layers=7"], "at most 6"),
    ],
    ids=str,
)
def test_a_network_that_is_not_there_is_one_line(
    command, pcam_root: Path, tmp_path: Path, overrides: list[str], named: str
) -> None:
    given = [f"data.root={pcam_root}", "model=timm", "trainer=cpu", "data.batch_size=16"]
    assert named in fault(command, tmp_path / "run", *given, *overrides)


@pytest.mark.parametrize("tune", ["head", pytest.param("lora", marks=pytest.mark.slow)])
def test_a_bundle_needs_no_file_of_the_backbone(
    copied_run, command, tmp_path: Path, tune: str
) -> None:
    run = copied_run(tune)
    code, out, err = command(
        f"run={run.path}", f"hydra.run.dir={tmp_path / 'made'}", name="bundle"
    )  # fmt: skip
    assert code == 0, out + err
    (archive,) = (tmp_path / "made").glob("*.zip")
    assert str(run.path.parent) not in Bundle(archive).metadata.model.values()
    expected = run.predictions("test").sort_values("row")["logit"].to_numpy()
    # Without the file, the run itself cannot be loaded, and the bundle can.
    manifest = json.loads((run.path / "manifest.json").read_text())
    manifest["backbone"]["file"] = "/nowhere/x.safetensors"
    (run.path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError):
        PCamClassifier.load(run.path)
    root = Path(run.manifest["dataset"]["root"])
    with h5py.File(root / "camelyonpatch_level_2_split_test_x.h5") as file:
        image = torch.from_numpy(np.asarray(file["x"]))
    for load in (PCamClassifier.load, load_bundle):
        with torch.no_grad():
            found = load(archive)(image).numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def load_bundle(path: Path) -> torch.nn.Module:
    return load_trained({"bundle": str(path)}).network
