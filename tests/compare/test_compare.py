"""`compare` names the differences between trained runs: a flag, a pixel, a line, a package."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import pytest
from command_processes import CommandProcess
from pcam_files import SPLITS, random_split, write_split

from pcam_lightning.data.files import SplitFiles

PACKAGE = Path(__file__).parents[2]
SMALL = (
    "model=mlp",
    "model.hidden=[8]",
    "trainer=cpu",
    "trainer.max_epochs=1",
    "data.batch_size=16",
    "logger=csv",
    "callbacks.last_checkpoint=null",
)

pytestmark = pytest.mark.xdist_group("compare")  # one process has the fixtures


def train(root: Path, folder: Path, *overrides: str) -> Path:
    process = CommandProcess([f"data.root={root}", f"hydra.run.dir={folder}", *SMALL, *overrides])
    _, err = process.communicate()
    assert process.returncode == 0, err
    return folder


@pytest.fixture(scope="module")
def first(tmp_path_factory) -> Path:
    """The folder `a` of a run, with its data in the folder beside it."""
    folder = tmp_path_factory.mktemp("first")
    for seed, (split, rows) in enumerate(zip(SPLITS, (48, 20, 20), strict=True)):
        write_split(folder / "data", split, *random_split(rows, seed))
    return train(folder / "data", folder / "a")


@pytest.fixture
def second(first: Path, tmp_path: Path):
    """Train the run `b`."""

    def run(*overrides: str, root: Path = first.parent / "data") -> Path:
        return train(root, tmp_path / "b", *overrides)

    return run


@pytest.fixture
def compare(command, plots, tmp_path: Path):
    def run(*folders: Path) -> tuple[dict, str]:
        where = tmp_path / "comparison"
        runs = ",".join(map(str, folders))
        code, out, err = command(f"runs=[{runs}]", f"hydra.run.dir={where}", name="compare")
        assert code == 0, err
        assert (where / "plots" / "curves.png").stat().st_size > 10_000
        assert out.splitlines()[-1] == f"summary: {where / 'summary.json'}"
        return json.loads((where / "compare.json").read_text()), out

    return run


def relevant(report: dict) -> list[tuple[str, str, list]]:
    return [(d["kind"], d["name"], d["values"]) for d in report["differences"] if d["matters"]]


def test_another_learning_rate(first: Path, second, compare) -> None:
    report, out = compare(first, second("optimizer.lr=0.01"))
    assert relevant(report) == [("config", "optimizer.lr", [0.05, 0.01])]
    pair = report["pairs"][0]
    assert pair["same_weights"] is False
    assert pair["parted"]["loss"]["step"] == 1  # the weights of step 0 are equal
    assert "config optimizer.lr" in report["verdict"][0]
    assert "optimizer.lr" in out


def test_a_setting_that_changes_no_result(first: Path, second, compare) -> None:
    report, _ = compare(first, second("data.num_workers=2"))
    assert relevant(report) == []
    assert [d["name"] for d in report["differences"]] == ["data.num_workers"]
    assert report["pairs"][0]["same_weights"] is True
    assert report["verdict"] == ["the same weights, bit for bit"]


def test_a_damaged_pixel(first: Path, second, compare, tmp_path: Path) -> None:
    copy = shutil.copytree(first.parent / "data", tmp_path / "copy")
    images = SplitFiles(copy, "train").images
    with h5py.File(images, "r+") as file:
        dataset = file["x"]
        assert isinstance(dataset, h5py.Dataset)
        before = int(dataset[7, 40, 41, 2])
        dataset[7, 40, 41, 2] = after = 255 - before
    report, out = compare(first, second(root=copy))
    assert [(kind, name) for kind, name, _ in relevant(report)] == [("data", images.name)]
    line = f"row 7: 1 value, first [40, 41, 2]: {before} and {after}"
    difference = next(d for d in report["differences"] if d["kind"] == "data")
    assert difference["detail"] == [line, "1 of 48 rows differs"]
    assert line in out


def test_other_rows_in_a_batch(first: Path, second, compare) -> None:
    report, _ = compare(first, second("data.seed=7"))
    assert [name for _, name, _ in relevant(report)] == ["data.seed"]
    assert report["pairs"][0]["parted"]["batch"]["step"] == 0
    assert "their batches hold other rows" in report["verdict"][0]


@pytest.mark.slow
def test_a_source_line_and_a_package(pcam_root: Path, tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    for name in ("pcam_lightning", "conf"):
        shutil.copytree(PACKAGE / name, checkout / name, ignore=shutil.ignore_patterns("__pyc*"))
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        identity = ("-c", "user.name=A", "-c", "user.email=a@b.c")
        subprocess.run(["git", *identity, *words], cwd=checkout, check=True)

    def call(name: str, *arguments: str, path: str = "") -> None:
        environment = os.environ | {"PYTHONPATH": f"{path}{os.pathsep}{checkout}"}
        words = [sys.executable, "-m", f"pcam_lightning.{name}", *arguments]
        done = subprocess.run(words, env=environment, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr

    call("train", f"data.root={pcam_root}", f"hydra.run.dir={tmp_path / 'a'}", *SMALL)
    module = checkout / "pcam_lightning" / "engine" / "module.py"
    line = "        loss = binary_cross_entropy_with_logits(logit, label)\n"
    other = "        loss = binary_cross_entropy_with_logits(logit, label) * 1.01\n"
    assert line in module.read_text()
    module.write_text(module.read_text().replace(line, other))
    package = tmp_path / "site" / "tqdm-99.0.dist-info" / "METADATA"
    package.parent.mkdir(parents=True)
    package.write_text("Metadata-Version: 2.1\nName: tqdm\nVersion: 99.0\n")
    site = str(tmp_path / "site")
    call("train", f"data.root={pcam_root}", f"hydra.run.dir={tmp_path / 'b'}", *SMALL, path=site)
    call("compare", f"runs=[{tmp_path / 'a'},{tmp_path / 'b'}]", f"hydra.run.dir={tmp_path / 'c'}")

    report = json.loads((tmp_path / "c" / "compare.json").read_text())
    named = {(kind, name): values for kind, name, values in relevant(report)}
    assert set(named) == {("code", "pcam_lightning/engine/module.py"), ("package", "tqdm")}
    assert named["package", "tqdm"][1] == "99.0"
    code = next(d for d in report["differences"] if d["kind"] == "code")
    assert code["detail"] == [f"-{line.rstrip()}", f"+{other.rstrip()}"]
    assert report["pairs"][0]["parted"]["tensor"]["step"] == 0


def test_intervals_contain_the_difference(first: Path, second, compare, tmp_path: Path) -> None:
    shutil.copytree(first, tmp_path / "sweep" / "a")
    second("seed=1").rename(tmp_path / "sweep" / "b")
    report, _ = compare(tmp_path / "sweep")
    assert sorted(report["names"]) == ["a", "b"]
    for split in ("val", "test"):
        for value in report["pairs"][0]["metrics"][split]["metrics"].values():
            assert value["low"] <= value["difference"] <= value["high"]


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ("[]", "0 runs found"),
        ("[nowhere]", "nowhere is no folder"),
        ("[a]", "1 runs found, expected two or more"),
    ],
)
def test_bad_input_is_one_line(command, tmp_path: Path, runs: str, message: str) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "manifest.json").write_text("{}")
    code, _, err = command(f"runs={runs}", name="compare")
    assert code == 2 and message in err and err.count("\n") == 1
