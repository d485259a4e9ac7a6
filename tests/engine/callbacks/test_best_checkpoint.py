"""The best checkpoint is the best of the whole run, wherever its parts were trained."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from pcam_files import SPLITS, random_split, write_split

from pcam_lightning.engine.callbacks import BestCheckpoint
from pcam_lightning.runs import Run

SMALL = ["model=mlp", "model.hidden=[8]", "trainer=cpu", "data.batch_size=16", "scheduler=none"]
SMALL += ["logger=csv", "callbacks.gradient_norm=null", "callbacks.early_stopping=null"]


def keys(checkpoint: Path) -> dict:
    state = torch.load(checkpoint, weights_only=True)["callbacks"]
    return next(value for key, value in state.items() if key.startswith("ModelCheckpoint"))


def claim_score(folder: Path, score: float) -> None:
    """Make the checkpoints of a run say that the best of them reached a score."""
    for path in (folder / "checkpoints").iterdir():
        checkpoint = torch.load(path, weights_only=True)
        for name, state in checkpoint["callbacks"].items():
            if name.startswith("ModelCheckpoint"):
                value = torch.tensor(score)
                for key in ("best_model_score", "current_score", "kth_value"):
                    state[key] = value
                state["best_k_models"] = {each: value for each in state["best_k_models"]}
        torch.save(checkpoint, path)


@pytest.fixture
def old(command, pcam_root: Path, tmp_path: Path) -> Path:
    """A finished run of one epoch."""
    folder = tmp_path / "old"
    more = [f"data.root={pcam_root}", f"hydra.run.dir={folder}", "trainer.max_epochs=1"]
    code, _, err = command(*SMALL, *more)
    assert code == 0, err
    return folder


def prolong(command, root: Path, old: Path, new: Path) -> tuple[Run, str]:
    more = [f"data.root={root}", f"hydra.run.dir={new}", "trainer.max_epochs=2"]
    code, out, err = command(*SMALL, *more, f"ckpt_path={old}/checkpoints/last.ckpt")
    assert code == 0, err
    return Run(new), out


def test_the_better_of_old_and_new_is_kept(command, old: Path, pcam_root, tmp_path: Path) -> None:
    claim_score(old, 2.0)  # no epoch reaches that
    run, out = prolong(command, pcam_root, old, tmp_path / "new")
    assert run.best_checkpoint.read_bytes() == (old / "checkpoints" / "best.ckpt").read_bytes()
    assert run.summary["best_checkpoint"] == "checkpoints/best.ckpt"
    assert run.summary["test"]["metrics"] == Run(old).summary["test"]["metrics"]
    assert "is not kept" not in out
    assert str(old) not in str(keys(run.last_checkpoint))

    claim_score(old, -1.0)  # any epoch does
    run, _ = prolong(command, pcam_root, old, tmp_path / "better")
    assert torch.load(run.best_checkpoint, weights_only=True)["epoch"] == 1

    moved = (tmp_path / "new").rename(tmp_path / "moved")
    more = [f"data.root={pcam_root}", f"hydra.run.dir={moved}", "trainer.max_epochs=3"]
    (moved / "status.json").write_text('{"state": "failed"}')
    code, _, err = command(*SMALL, *more)
    assert code == 0, err
    best = Run(moved).best_checkpoint
    assert best.read_bytes() != b"" and float(keys(best)["current_score"]) == 2.0


def test_what_is_not_comparable_is_not_kept_and_said(
    command, old: Path, pcam_root, tmp_path: Path
) -> None:
    claim_score(old, 2.0)
    other = tmp_path / "other"
    for seed, (split, rows) in enumerate(zip(SPLITS, (48, 20, 20), strict=True), start=7):
        write_split(other, split, *random_split(rows, seed))
    later = shutil.copytree(old, tmp_path / "later")
    checkpoint = torch.load(later / "checkpoints" / "best.ckpt", weights_only=True)
    next(v for k, v in checkpoint["callbacks"].items() if k.startswith("Model"))[
        "current_score"
    ] += 1
    torch.save(checkpoint, later / "checkpoints" / "best.ckpt")
    without = shutil.copytree(old, tmp_path / "without")
    (without / "checkpoints" / "best.ckpt").unlink()
    for number, (begun, root, said) in enumerate(
        [
            (old, other, "other data"),
            (later, pcam_root, "later/checkpoints/best.ckpt"),
            (without, pcam_root, "without/checkpoints/best.ckpt"),
        ]
    ):
        run, out = prolong(command, root, begun, tmp_path / str(number))
        (line,) = [line for line in out.splitlines() if "is not kept" in line]
        assert said in line
        assert torch.load(run.best_checkpoint, weights_only=True)["epoch"] == 1


def test_a_state_of_the_stock_class_can_be_loaded() -> None:
    from lightning.pytorch.callbacks import ModelCheckpoint

    settings: dict[str, Any] = {"dirpath": "x", "monitor": "val/auroc", "mode": "max"}
    assert BestCheckpoint(**settings).state_key == ModelCheckpoint(**settings).state_key
