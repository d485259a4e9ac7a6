"""The command probe: a run folder like any other, from the features of a frozen network."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from pcam_files import SPLITS, random_split, write_split
from sklearn.metrics import roc_auc_score

from pcam_lightning.config import schema
from pcam_lightning.config.trained import load_trained
from pcam_lightning.probe import published
from pcam_lightning.runs import Run

timm = pytest.importorskip("timm")

ROWS = {"train": 96, "valid": 60, "test": 48}


@pytest.fixture(scope="module")
def first(made_once, command_in) -> Path:
    """A folder with a probe in `run`, and its `pcam`, `test_resnet.pth` and `features`.

    The data is noise; tumours are darker in the center. Every fifth training patch is black.
    """

    def make(folder: Path) -> None:
        for seed, split in enumerate(SPLITS):
            images, labels = random_split(ROWS[split], seed)
            images[labels, 32:64, 32:64] //= 2
            if split == "train":
                images[::5] = 0
            write_split(folder / "pcam", split, images, labels)
        torch.manual_seed(0)
        torch.save(timm.create_model("test_resnet").state_dict(), folder / "test_resnet.pth")
        command_in(folder, *settings(folder, folder), "hydra.run.dir=run", name="probe")

    return made_once("probe", make)


def settings(inputs: Path, folder: Path) -> list[str]:
    return [
        "model=timm", "model.name=test_resnet", f"model.weights={inputs / 'test_resnet.pth'}",
        f"data.root={inputs / 'pcam'}", "trainer.accelerator=cpu", "trainer.precision=32-true",
        "data.batch_size=32", "probe.few_shot=[1,5]", "probe.draws=3",
        f"probe.features_dir={folder / 'features'}",
    ]  # fmt: skip


@pytest.fixture
def probe(command, first: Path, tmp_path: Path):
    """Run the command in a folder of `tmp_path`, with features outside the data's folder."""

    def call(*arguments: str, folder: str = "run") -> tuple[int, str, str]:
        words = (*settings(first, tmp_path), f"hydra.run.dir={folder}", *arguments)
        return command(*words, name="probe")

    return call


@pytest.fixture
def run(first: Path, tmp_path: Path) -> Run:
    """A finished probe in `tmp_path`, whose features `probe` finds."""
    shutil.copytree(first / "features", tmp_path / "features")
    return Run(shutil.copytree(first / "run", tmp_path / "run"))


def test_a_probe_is_a_run_of_the_best_penalty(run: Run) -> None:
    assert run.state == "finished"
    summary, found = run.summary, run.summary["probe"]
    assert run.manifest["config"]["model"]["tune"] == "head"
    assert run.manifest["backbone"]["digest"] == summary["backbone"]["digest"]
    assert summary["data"]["rows"] == {"train": 96, "valid": 60, "test": 48}
    best = max(found["penalties"], key=lambda each: each["val_auroc"])
    assert found["penalty"] == best["penalty"]
    for split in ("val", "test"):
        table = run.predictions(split)
        auroc = roc_auc_score(table["label"], table["logit"])
        assert summary[split]["metrics"]["auroc"]["value"] == pytest.approx(auroc)
        assert table["row"].tolist() == list(range(ROWS[{"val": "valid"}.get(split, split)]))
    assert best["val_auroc"] == pytest.approx(summary["val"]["metrics"]["auroc"]["value"])
    assert [each["patches"] for each in found["few_shot"]] == [1, 5]
    assert len(pd.read_csv(run.path / "few_shot.csv")) == 2
    assert {"few_shot.png", "roc_test.png"} <= {p.name for p in (run.path / "plots").iterdir()}
    assert len(pd.read_csv(run.path / "published.csv")) == len(published.SCORES) + 1
    assert set(found["features"]["splits"].values()) == {"computed"}


def test_the_network_gives_the_logits_of_the_predictions(run: Run) -> None:
    """Features are rounded to float16: logits agree to 1 % of their standard deviation."""
    network = load_trained({"run": str(run.path)}).network
    table = run.predictions("test")
    image = torch.from_numpy(random_split(ROWS["test"], 2)[0])
    labels = random_split(ROWS["test"], 2)[1]
    image[torch.from_numpy(labels), 32:64, 32:64] //= 2
    with torch.inference_mode():
        logit = network(image).numpy()
    expected = table["logit"].to_numpy()
    np.testing.assert_allclose(logit, expected, atol=0.01 * expected.std())


def test_a_second_probe_reuses_the_features(probe, run: Run, monkeypatch) -> None:
    from pcam_lightning.probe import extraction

    monkeypatch.setattr(extraction.Extractor, "extract", None)
    code, out, err = probe("data.filter=blank", "probe.few_shot=[]", "seed=3", folder="again")
    assert code == 0, err
    assert out.rstrip().endswith("again/summary.json")
    summary = Run("again").summary
    assert set(summary["probe"]["features"]["splits"].values()) == {"reused"}
    assert summary["data"]["rows"]["train"] == 96 - len(range(0, 96, 5))
    assert summary["probe"]["few_shot"] == [] and not Path("again/few_shot.csv").exists()


def test_a_second_probe_knows_the_fits(probe, run: Run, tmp_path: Path) -> None:
    first = run.summary["probe"]
    assert first["reused"] == {"logistic": False, "few_shot": False, "neighbors": False}
    assert probe(folder="again")[0] == 0
    again = Run("again")
    assert set(again.summary["probe"]["reused"].values()) == {True}
    for key in ("penalty", "penalties", "neighbors", "few_shot"):
        assert again.summary["probe"][key] == first[key]
    for split in ("val", "test"):
        pd.testing.assert_frame_equal(again.predictions(split), run.predictions(split))
    assert again.summary["weights_digest"] == run.summary["weights_digest"]
    assert probe("probe.penalties=[1e-3,1e-2]", folder="other")[0] == 0
    assert Run("other").summary["probe"]["reused"] == {
        "logistic": False, "few_shot": True, "neighbors": True,
    }  # fmt: skip
    # Fewer rows, with the same features.
    assert probe("data.filter=blank", folder="fewer")[0] == 0
    assert set(Run("fewer").summary["probe"]["reused"].values()) == {False}
    for path in (tmp_path / "features").glob("neighbors_*.json"):
        path.write_text("{")  # damaged
    assert probe(folder="damaged")[0] == 0
    assert Run("damaged").summary["probe"]["neighbors"] == first["neighbors"]


def test_other_commands_take_a_probe(command, run: Run, first: Path) -> None:
    images = first / "pcam" / "camelyonpatch_level_2_split_test_x.h5"
    for name, arguments in {
        "evaluate": ["run=run", "evaluate.gallery=2", "trainer.accelerator=cpu"],
        "predict": ["run=run", f"input={images}", "trainer.accelerator=cpu"],
        "compare": ["runs=[run,run]"],
        "collect": ["runs=run"],
        "check": ["inputs=run"],
        "report": ["inputs=run"],
    }.items():
        code, out, err = command(*arguments, name=name)
        assert (code, "summary: " in out) == (0, True), (name, err)


INVALID: list[tuple[list[str], str]] = [
    (["model=cnn"], "model"),
    (["model=resnet18"], "model"),
    (["model.tune=full"], "model.tune"),
    (["model.weights=null"], "model.weights"),
    (["model.weights=/no/such/file"], "/no/such/file"),
    (["model.name=no_such_network"], "model.name"),
    (["data.sampler=balanced"], "data.sampler"),
    (["data.num_workers=2"], "data.num_workers"),
    (["trainer.devices=2"], "trainer.devices"),
    (["probe.penalties=[]"], "probe.penalties"),
    (["probe.penalties=[0.1,0]"], "probe.penalties"),
    (["probe.neighbors=[0]"], "probe.neighbors"),
    (["probe.draws=1"], "probe.draws"),
    (["probe.few_shot_penalty=-1"], "probe.few_shot_penalty"),
    (["data.root=/no/such/folder"], "data.root"),
]


@pytest.mark.parametrize(("arguments", "key"), INVALID)
def test_invalid_input_is_one_line_before_any_work(
    probe, tmp_path: Path, arguments: list[str], key: str
) -> None:
    code, _, err = probe(*arguments)
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert code == 2 and len(lines) == 1 and key in lines[0], err
    assert "Traceback" not in err
    assert not (tmp_path / "features").exists()


@pytest.mark.parametrize("split", ["train", "valid"])
def test_a_split_of_one_class_is_rejected(probe, tmp_path: Path, split: str) -> None:
    other = tmp_path / "one_class"
    for seed, name in enumerate(SPLITS):
        images, labels = random_split(12, seed)
        write_split(other, name, images, labels & (name != split))
    code, _, err = probe(f"data.root={other}")
    assert code == 2 and f"split_{split}_y.h5" in err
    assert not (tmp_path / "features").exists()


def test_settings_beyond_the_data_are_left_out_and_logged(probe) -> None:
    code, out, err = probe("probe.neighbors=[1,5000]", "probe.few_shot=[1,5000]")
    assert code == 0
    found: dict[str, Any] = json.loads(Path("run/summary.json").read_text())["probe"]
    assert [each["k"] for each in found["neighbors"]["tried"]] == [1]
    assert [each["patches"] for each in found["few_shot"]] == [1]
    assert "probe.neighbors: 5000" in out + err and "5000 patches per class" in out + err


def test_a_penalty_at_the_edge_of_the_grid_is_reported(probe) -> None:
    code, out, err = probe("probe.penalties=[1e-3,1e3]")
    assert code == 0 and "probe.penalties" in out + err


def test_an_experiment_names_the_backbone_and_not_what_is_trained(composed) -> None:
    config = composed(["experiment=h_optimus_0"], name="probe")
    schema.check("probe", config)
    assert config["model"]["name"] == "hf-hub:bioptimus/H-optimus-0"
    assert config["model"]["tune"] == "head"
    assert config["experiment_name"] == "h_optimus_0"
