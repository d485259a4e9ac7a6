"""The best checkpoint of a whole run is kept, in whatever folders its parts were trained."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from pcam_files import SPLITS, random_split, write_split

from pcam_lightning.data import PCamDataModule
from pcam_lightning.engine.callbacks import BestCheckpoint, PreemptionCheckpoint
from pcam_lightning.engine.module import PCamClassifier
from pcam_lightning.models import MLP

BEST, LAST = "checkpoints/best.ckpt", "checkpoints/last.ckpt"


def write_data(root: Path, first_seed: int) -> Path:
    for seed, (split, rows) in enumerate(zip(SPLITS, (48, 20, 20), strict=True), start=first_seed):
        write_split(root, split, *random_split(rows, seed))
    return root


def run(root: Path, folder: Path, epochs: int, checkpoint: Path | None = None) -> Path:
    """Fit in a folder, from a checkpoint if one is given; return the folder."""
    last = PreemptionCheckpoint(str(folder / LAST), str(folder / "metrics.csv"))
    best = BestCheckpoint(
        folder / "checkpoints",
        "best",
        monitor="val/auroc",
        mode="max",
        enable_version_counter=False,
    )
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[best, last],
    )
    datamodule = PCamDataModule(root, batch_size=16)
    module = PCamClassifier(MLP((8,)), lambda p: torch.optim.SGD(p, lr=1e-3))
    trainer.fit(module, datamodule, ckpt_path=checkpoint, weights_only=True)
    manifest = {"dataset": {"fingerprint": datamodule.fingerprint}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"), 0)


@pytest.fixture(scope="module")
def first(root: Path, tmp_path_factory) -> Path:
    """A run of one epoch."""
    return run(root, tmp_path_factory.mktemp("first"), 1)


@pytest.fixture
def old(first: Path, tmp_path: Path) -> Path:
    return shutil.copytree(first, tmp_path / "old")


def state(checkpoint: Path) -> dict[str, Any]:
    states = torch.load(checkpoint, weights_only=True)["callbacks"]
    return next(value for key, value in states.items() if key.startswith("ModelCheckpoint"))


def reported(caplog) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.name.startswith("pcam_lightning")]


def set_score(checkpoint: Path, score: float) -> None:
    """Change the best score that a checkpoint reports."""
    content = torch.load(checkpoint, weights_only=True)
    for name, saved in content["callbacks"].items():
        if name.startswith("ModelCheckpoint"):
            value = torch.tensor(score)
            saved |= dict.fromkeys(("best_model_score", "current_score", "kth_value"), value)
            saved["best_k_models"] = dict.fromkeys(saved["best_k_models"], value)
    torch.save(content, checkpoint)


def test_the_best_of_both_folders_is_kept(old: Path, root: Path, tmp_path: Path, caplog) -> None:
    for name in (BEST, LAST):
        set_score(old / name, 2.0)  # no epoch reaches it
    new = run(root, tmp_path / "new", 2, old / LAST)
    assert (new / BEST).read_bytes() == (old / BEST).read_bytes()
    assert str(old) not in str(state(new / LAST)) and not reported(caplog)

    moved = new.rename(tmp_path / "moved")
    run(root, moved, 3, moved / LAST)
    assert (moved / BEST).read_bytes() == (old / BEST).read_bytes()

    for name in (BEST, LAST):
        set_score(old / name, -1.0)  # every epoch exceeds it
    better = run(root, tmp_path / "better", 2, old / LAST)
    assert torch.load(better / BEST, weights_only=True)["epoch"] == 1


# Each case makes the best checkpoint of the old run unusable; the warning names the reason.
@pytest.mark.parametrize(
    ("case", "named"),
    [("other data", "other data"), ("later", f"old/{BEST}"), ("missing", f"old/{BEST}")],
)
def test_an_unusable_best_checkpoint_is_reported_and_replaced(
    old: Path, root: Path, tmp_path: Path, caplog, case: str, named: str
) -> None:
    for name in (BEST, LAST):
        set_score(old / name, 2.0)
    if case == "other data":
        root = write_data(tmp_path / "data", 7)
    elif case == "later":
        set_score(old / BEST, 3.0)
    else:
        (old / BEST).unlink()
    new = run(root, tmp_path / "new", 2, old / LAST)
    (message,) = reported(caplog)
    assert named in message and "\n" not in message
    assert torch.load(new / BEST, weights_only=True)["epoch"] == 1


def test_it_can_load_the_state_of_model_checkpoint() -> None:
    settings: dict[str, Any] = {"dirpath": "x", "monitor": "val/auroc", "mode": "max"}
    assert BestCheckpoint(**settings).state_key == ModelCheckpoint(**settings).state_key
