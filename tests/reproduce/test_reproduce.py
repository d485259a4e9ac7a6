"""`reproduce` repeats a run and reports the first difference, if there is one."""

import json
import shutil
from pathlib import Path

import pytest
from command_processes import CommandProcess
from pcam_files import SPLITS, invert_patch, random_split, write_split

from pcam_lightning.data.files import SplitFiles
from pcam_lightning.runs import Run

pytestmark = pytest.mark.xdist_group("reproduce")  # one process has the fixtures


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Run:
    """A finished run, with its data in the folder beside it."""
    folder = tmp_path_factory.mktemp("finished")
    for seed, (split, rows) in enumerate(zip(SPLITS, (48, 20, 20), strict=True)):
        write_split(folder / "data", split, *random_split(rows, seed))
    arguments = (
        f"data.root={folder / 'data'}",
        f"hydra.run.dir={folder / 'run'}",
        "model=mlp",
        "model.hidden=[8]",
        "model.dropout=0.5",
        "trainer=cpu",
        "trainer.max_epochs=2",
        "data.batch_size=16",
    )
    process = CommandProcess(arguments)
    _, err = process.communicate()
    assert process.returncode == 0, err
    return Run(folder / "run")


@pytest.fixture
def run(finished: Run, tmp_path: Path) -> Run:
    """A copy of the finished run."""
    return Run(shutil.copytree(finished.path, tmp_path / "run"))


@pytest.fixture
def reproduce(command, run: Run, tmp_path: Path):
    def call() -> tuple[int, str, str]:
        where = f"hydra.run.dir={tmp_path / 'again'}"
        return command(f"run={run.path}", where, name="reproduce")

    return call


def test_an_identical_repetition(run: Run, reproduce, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    code, out, err = reproduce()
    assert code == 0, err
    assert "identical: 6 steps, weights and predictions, bit for bit" in out
    summary = json.loads((tmp_path / "again" / "summary.json").read_text())
    assert summary["identical"] is True
    twin = Run(tmp_path / "again" / "twin")
    assert twin.summary["weights_digest"] == run.summary["weights_digest"]
    assert twin.summary["test"] == run.summary["test"]
    assert before == {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}


def edit_manifest(run: Run, change) -> None:
    manifest = run.manifest
    change(manifest)
    (run.path / "manifest.json").write_text(json.dumps(manifest))


def test_the_first_difference_is_named(run: Run, reproduce, tmp_path: Path) -> None:
    # As if the run had used another learning rate than its manifest states.
    edit_manifest(run, lambda manifest: manifest["config"]["optimizer"].update(lr=0.5))
    code, _, err = reproduce()
    assert code == 1
    assert "failed: other weights; from step 1 (epoch 0) the loss of the same rows differs" in err
    summary = json.loads((tmp_path / "again" / "summary.json").read_text())
    assert summary["identical"] is False
    parted = summary["parted"]
    assert parted["tensor"]["step"] == 1
    assert f"norm/{parted['tensor']['name']}" in run.gradients


def test_other_data_is_rejected_before_training(run: Run, reproduce, tmp_path: Path) -> None:
    root = shutil.copytree(run.manifest["dataset"]["root"], tmp_path / "data")
    invert_patch(SplitFiles(root, "train").images, 3)
    edit_manifest(run, lambda manifest: manifest["dataset"].update(root=str(root)))
    code, _, err = reproduce()
    assert code == 2
    assert f"{root}: data with fingerprint" in err.splitlines()[-1]
    assert not (tmp_path / "again" / "twin" / "metrics.csv").exists()


def test_other_packages_and_code_give_warnings(run: Run, reproduce) -> None:
    text = (run.path / "environment.txt").read_text()
    (run.path / "environment.txt").write_text(text.replace("tqdm==", "tqdm==0."))
    edit_manifest(run, lambda m: m["sources"].update({"pcam_lightning/engine/module.py": "0"}))
    code, out, err = reproduce()
    assert code == 0
    assert "package tqdm: then 0." in out + err
    assert "code pcam_lightning/engine/module.py: then 0, now " in out + err


def test_only_a_finished_run_is_repeated(run: Run, reproduce) -> None:
    status = run.status | {"state": "failed"}
    (run.path / "status.json").write_text(json.dumps(status))
    code, _, err = reproduce()
    assert code == 2 and "this run is failed, expected a finished one" in err
