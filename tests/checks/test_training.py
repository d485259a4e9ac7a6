"""Checks of training on histories whose verdict is known."""

from pathlib import Path

import check_folders as made
import numpy as np
import pytest

from pcam_lightning.checks import training
from pcam_lightning.checks.inputs import Folder, Inputs, find_inputs, read_folder

NOTHING = Inputs(())


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    made.write_train(tmp_path / "run", 0.01, 1, 0.9)
    return read_folder(tmp_path / "run")


@pytest.mark.parametrize(
    ("loss", "state"),
    [
        (np.linspace(0.7, 0.2, 100), "passed"),
        (np.linspace(0.7, 0.69, 100), "issue"),
        (np.linspace(0.7, 3.0, 100), "issue"),
        (np.where(np.arange(100) < 90, 0.7, np.nan), "issue"),
        (np.where(np.arange(100) < 90, 0.7, np.inf), "issue"),
    ],
)
def test_a_loss_falls_stays_rises_or_ends(folder: Folder, loss: np.ndarray, state: str) -> None:
    made.write_gradients(folder.path, loss=loss)
    assert training.training_loss(folder, NOTHING).state == state


@pytest.mark.parametrize(
    ("auroc", "last", "early"),
    [
        ([0.9, 0.8, 0.7, 0.6], "passed", "issue"),
        ([0.7, 0.9, 0.8, 0.7], "passed", "passed"),
        ([0.6, 0.7, 0.8, 0.9], "tip", "passed"),
        ([0.8, 0.9, 0.8, 0.8, 0.7, 0.7, 0.6, 0.6], "passed", "issue"),
    ],
)
def test_the_best_epoch_is_early_late_or_between(
    folder: Folder, auroc: list[float], last: str, early: str
) -> None:
    made.write_history(folder.path, auroc)
    assert training.last_epoch_best(folder, NOTHING).state == last
    assert training.overfitting(folder, NOTHING).state == early


def test_a_loss_is_best_where_it_is_lowest(folder: Folder) -> None:
    checkpoint = {"monitor": "val/loss", "mode": "min"}
    made.edit(folder.path / "manifest.json", {"config/callbacks/checkpoint": checkpoint})
    path = folder.path / "metrics.csv"
    path.write_text("epoch,step,val/loss\n0,9,0.5\n1,19,0.4\n2,29,0.3\n3,39,0.2\n")
    assert training.last_epoch_best(folder, NOTHING).state == "tip"
    assert training.overfitting(folder, NOTHING).state == "passed"


@pytest.mark.parametrize(("clipped", "state"), [(50, "passed"), (51, "tip")])
def test_half_of_the_steps_may_be_clipped(folder: Folder, clipped: int, state: str) -> None:
    norm = np.where(np.arange(100) < clipped, 5.0, 0.5)
    made.write_gradients(folder.path, norm=norm, norm_clipped=np.minimum(norm, 1.0))
    assert training.clipping(folder, NOTHING).state == state


@pytest.mark.parametrize(
    ("damaged", "state"),
    [
        (range(100, 200), "passed"),  # none of them behind the spike
        (range(0, 1000, 8), "passed"),  # one of eight, as everywhere
        (range(1, 4), "issue"),  # three of eight, of three in a thousand
    ],
)
def test_damage_behind_spikes_must_be_more_than_chance(
    folder: Folder, damaged: range, state: str
) -> None:
    findings = [("train", row, "white", "255") for row in damaged]
    made.write_audit(folder.path.parent / "audit", findings)
    inputs = find_inputs([folder.path.parent])
    assert training.spikes(inputs.of_kind("train")[0], inputs).state == state


def test_a_run_without_spikes_needs_no_audit(folder: Folder) -> None:
    made.write_gradients(folder.path, rows=[None] * 100)
    assert training.spikes(folder, NOTHING).state == "passed"
