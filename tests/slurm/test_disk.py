"""Disk space of a sweep, beside checkpoints that a trainer wrote."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from pcam_lightning.models import TimmClassifier
from pcam_lightning.slurm import disk


@pytest.mark.parametrize(
    ("optimizer", "section"),
    [
        (torch.optim.Adam, {"_target_": "torch.optim.Adam"}),
        (torch.optim.SGD, {"_target_": "torch.optim.SGD", "momentum": 0}),
    ],
)
def test_a_checkpoint_has_the_size_of_a_saved_one(tmp_path: Path, optimizer, section) -> None:
    model = {"_target_": "pcam_lightning.models.MLP", "hidden": [64]}
    from pcam_lightning.models import MLP

    network = MLP(hidden=[64])
    steps = optimizer(network.parameters(), lr=0.1)
    network(torch.zeros(2, 96, 96, 3, dtype=torch.uint8)).sum().backward()
    steps.step()
    torch.save([network.state_dict(), steps.state_dict()], tmp_path / "saved.pt")
    size = (tmp_path / "saved.pt").stat().st_size
    assert disk.checkpoint_bytes(model, section) == pytest.approx(size, rel=0.01)


@pytest.mark.parametrize(("tune", "share"), [("full", 1.0), ("lora", 0.2), ("head", 0.01)])
def test_a_checkpoint_without_its_frozen_backbone_is_small(
    tmp_path: Path, tune: str, share: float
) -> None:
    (tmp_path / "x.pth").touch()
    model = {
        "_target_": "pcam_lightning.models.TimmClassifier", "name": "test_vit", "tune": tune,
        "weights": str(tmp_path / "x.pth"), "lora_rank": 4,
    }  # fmt: skip
    found = disk.checkpoint_bytes(model, {"_target_": "torch.optim.Adam"})
    with torch.device("cpu"):
        network = TimmClassifier("test_vit", tune=tune, lora_rank=4)
    trained = sum(each.numel() for each in network.parameters() if each.requires_grad)
    assert found == pytest.approx(3 * 4 * trained, abs=100)
    everything = sum(each.numel() for each in network.parameters())
    assert found <= 3 * 4 * everything * share + 100


def test_a_sweep_that_does_not_fit_names_its_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {"model": {"_target_": "torch.nn.Linear", "in_features": 1000, "out_features": 1000}}
    config["optimizer"] = {"_target_": "torch.optim.Adam"}
    assert disk.space_needed([config, config]) == 2 * (2 * 3 * 4 * 1_001_000 + 10_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=70_000_000))
    sweep = tmp_path / "later"
    assert not list(disk.disk_problems([config, config], sweep))
    (line,) = disk.disk_problems([config, config, config], sweep)
    assert f"hydra.sweep.dir={sweep}" in line and "3 runs" in line
