"""Checks of reproducibility: which recorded facts matter."""

import shutil
from pathlib import Path

import check_folders as made
import pytest

from pcam_lightning.checks import reproducibility
from pcam_lightning.checks.inputs import Inputs, find_inputs, read_folder

NOTHING = Inputs(())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made.write_train(tmp_path / "a", 0.01, 1, 0.9)
    return tmp_path / "a"


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({}, "passed"),
        ({"hardware/gpus": [{"name": "H100"}]}, "tip"),
        (
            {"hardware/gpus": [{"name": "H100"}], "determinism/deterministic_algorithms": True},
            "passed",
        ),
        ({"hardware/gpus": [{"name": "H100"}], "config/trainer/accelerator": "cpu"}, "passed"),
    ],
)
def test_only_a_gpu_needs_deterministic_algorithms(folder: Path, changes, state: str) -> None:
    made.edit(folder / "manifest.json", changes)
    assert reproducibility.determinism(read_folder(folder), NOTHING).state == state


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({}, "passed"),
        ({"git/dirty": True}, "tip"),
        ({"git/patch_left_out": ["big.py"]}, "issue"),
        ({"git/commit": None}, "issue"),
    ],
)
def test_recorded_changes_are_a_tip_and_lost_ones_an_issue(
    folder: Path, changes, state: str
) -> None:
    made.edit(folder / "manifest.json", changes)
    assert reproducibility.recorded_code(read_folder(folder), NOTHING).state == state


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({"git/commit": "d" * 40}, "passed"),  # the sources are equal
        ({"python/executable": "/other/python"}, "passed"),
        ({"config/optimizer/lr": 0.1}, "passed"),
        ({"sources/pcam_lightning/__init__.py": "b"}, "issue"),
        ({"python/version": "3.12.1"}, "issue"),
    ],
)
def test_runs_of_a_sweep_share_code_and_packages(folder: Path, changes, state: str) -> None:
    shutil.copytree(folder, folder.with_name("b"))
    if "sources/pcam_lightning/__init__.py" in changes:
        changes = {"sources": {"pcam_lightning/__init__.py": "b"}}
    made.edit(folder.with_name("b") / "manifest.json", changes)
    (sweep,) = find_inputs([folder.parent]).of_kind("sweep")
    assert reproducibility.equal_environments(sweep, NOTHING).state == state


@pytest.mark.parametrize(
    ("same", "differences", "state"),
    [
        (True, [], "passed"),
        (False, [("config", True, [1, 2])], "passed"),
        (False, [("config", False, [1, 2])], "issue"),  # cannot change weights
        (False, [("config", True, [1, 1])], "issue"),
        (True, [("config", True, [1, 2])], "tip"),
        (True, [("hardware", True, [1, 2])], "passed"),
        (None, [], "passed"),
    ],
)
def test_other_weights_need_a_cause(tmp_path: Path, same, differences, state: str) -> None:
    made.write_run(tmp_path, {"runs": [], "verdict": []})
    facts = [
        {"kind": kind, "name": "a", "values": values, "matters": matters}
        for kind, matters, values in differences
    ]
    content = {"names": ["x", "y"], "differences": facts, "pairs": [{"same_weights": same}]}
    made.write_json(tmp_path / "compare.json", content)
    assert reproducibility.explained_differences(read_folder(tmp_path), NOTHING).state == state
