"""`PCamClassifier.load` gives the network of a run, and runs nothing that a file names."""

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch import nn

from pcam_lightning.engine import PCamClassifier
from pcam_lightning.errors import InputError
from pcam_lightning.models import CNN, MLP
from pcam_lightning.runs import Run


def images(run: Run) -> torch.Tensor:
    root = Path(run.manifest["dataset"]["root"])
    with h5py.File(root / "camelyonpatch_level_2_split_test_x.h5") as file:
        return torch.from_numpy(np.asarray(file["x"]))


@pytest.mark.parametrize("place", ["", "checkpoints/best.ckpt"])
@pytest.mark.parametrize("model", [None, CNN(channels=(4, 4))], ids=["recorded", "given"])
def test_the_logits_are_those_of_the_run(
    trained_run: Run, place: str, model: nn.Module | None
) -> None:
    module = PCamClassifier.load(trained_run.path / place, model=model)
    assert not module.training and not module.model.training
    with torch.no_grad():
        logit = module(images(trained_run))
    expected = trained_run.predictions("test")["logit"].to_numpy()
    np.testing.assert_allclose(logit.numpy(), expected, rtol=1e-5, atol=1e-5)
    saved = torch.load(trained_run.best_checkpoint, weights_only=True)["state_dict"]
    loaded = module.state_dict()
    assert loaded.keys() == saved.keys()
    assert all(torch.equal(loaded[name], saved[name]) for name in saved)


def test_a_checkpoint_without_a_run_folder_needs_its_network(
    trained_run: Run, tmp_path: Path
) -> None:
    path = tmp_path / "copy.ckpt"
    shutil.copy(trained_run.best_checkpoint, path)
    with pytest.raises(InputError, match=r"copy\.ckpt.*model=CNN\(\)"):
        PCamClassifier.load(path)
    PCamClassifier.load(str(path), model=CNN(channels=(4, 4)))
    with pytest.raises(InputError, match="expected the weights of MLP"):
        PCamClassifier.load(path, model=MLP())


def test_a_bundle_gives_its_network() -> None:
    module = PCamClassifier.load(Path(__file__).parents[1] / "bundle" / "bundle_v1.zip")
    with torch.no_grad():
        assert module(torch.zeros(2, 96, 96, 3, dtype=torch.uint8)).shape == (2,)


@pytest.mark.parametrize(
    ("model", "named"),
    [
        ({"_target_": "os.system", "command": "touch x"}, "_target_=os.system"),
        ({"_target_": "pcam_lightning.models.build"}, "_target_=pcam_lightning.models.build"),
        ({"_target_": "pcam_lightning.models.CNN", "channels": "4"}, "config.model.channels"),
        ({"_target_": "pcam_lightning.models.CNN", "depth": 3}, "depth"),
        ({"_target_": "pcam_lightning.models.CNN", "channels": [8, 8]}, "expected [8, 3, 5, 5]"),
        ({}, "_target_=None"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_only_networks_of_this_package_are_built(
    trained_run: Run, tmp_path: Path, model: dict, named: str
) -> None:
    run = Run(shutil.copytree(trained_run.path, tmp_path / "run"))
    manifest = json.loads((run.path / "manifest.json").read_text())
    manifest["config"]["model"] = model
    (run.path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError) as caught:
        PCamClassifier.load(run.path)
    assert named in str(caught.value) and "\n" not in str(caught.value)


def test_a_path_that_does_not_exist_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing: no such file"):
        PCamClassifier.load(tmp_path / "nothing")
