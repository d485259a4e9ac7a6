"""Disk space of a sweep, beside checkpoints that a trainer wrote."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

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
