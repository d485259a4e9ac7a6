"""An exported model computes what PyTorch computes, in programs that do not know this package."""

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import onnxruntime
import pytest
import torch
import yaml
from model_builders import NETWORKS
from sklearn.metrics import roc_auc_score

import pcam_lightning
from pcam_lightning.data.files import SplitFiles
from pcam_lightning.export import onnx
from pcam_lightning.export.torch_export import write_pt2
from pcam_lightning.files import write_json
from pcam_lightning.models.served import Served
from pcam_lightning.runs import Run
from pcam_lightning.runs.threshold import Threshold, write_threshold

HOSTILE = "<script>alert(1)</script> | [x](javascript:1) `y`"


@pytest.fixture
def run(trained_run: Run, tmp_path: Path) -> Run:
    """A copy of the trained run, with a stored threshold and temperature."""
    run = Run(shutil.copytree(trained_run.path, tmp_path / "run"))
    store_threshold(run)
    return run


def store_threshold(run: Run, **changes) -> None:
    values = {
        "value": 0.4, "rule": "max_fbeta", "temperature": 2.0, "tta": "none",
        "checkpoint": "best.ckpt", "weights_digest": run.summary["weights_digest"],
        "dataset": {"name": "pcam"}, "validation": {},
    }  # fmt: skip
    write_threshold(run.path, Threshold(**values | changes))


@pytest.fixture(scope="module")
def exported(trained_run: Run, made_once, command_in) -> Path:
    """The folder of an exported run, with the folder `run` of the run.

    The stored threshold is the median probability, so that there are decisions of both kinds, and
    the name of its data set is text that a page must not contain as such.
    """

    def export(folder: Path) -> None:
        run = Run(shutil.copytree(trained_run.path, folder / "run"))
        median = float(np.median(expected_probability(run, temperature=1.0))) + 1e-6
        store_threshold(run, value=median)
        manifest = run.manifest
        manifest["dataset"]["name"] = HOSTILE
        write_json(run.path / "manifest.json", manifest)
        words = (f"run={run.path}", "export.quantize=int8", f"hydra.run.dir={folder / 'exported'}")
        command_in(folder, *words, name="export")

    return made_once("exported", export) / "exported"


@pytest.fixture(scope="module")
def exported_run(exported: Path) -> Run:
    return Run(exported.parent / "run")


@pytest.fixture
def export(command, tmp_path: Path):
    def call(run: Run, *arguments: str, code: int = 0, name: str = "exported") -> tuple[Path, str]:
        folder = tmp_path / name
        found, out, err = command(
            f"run={run.path}", *arguments, f"hydra.run.dir={folder}", name="export"
        )
        assert found == code, out + err
        if code == 2:
            assert err.count("\n") == 1 and not (folder / "summary.json").exists(), err
        return folder, out + err

    return call


def validation_patches(run: Run) -> np.ndarray:
    with h5py.File(SplitFiles(Path(run.manifest["dataset"]["root"]), "valid").images) as file:
        return file["x"][:]  # type: ignore[index]


def expected_probability(run: Run, temperature: float) -> np.ndarray:
    """Computed from the logits that the run itself wrote when it was trained."""
    logit = run.predictions("val").sort_values("row")["logit"].to_numpy(np.float64)
    return 1 / (1 + np.exp(-logit / temperature))


def test_onnxruntime_gives_calibrated_probabilities(exported: Path, exported_run: Run) -> None:
    session = onnxruntime.InferenceSession(exported / "model.onnx")
    image = validation_patches(exported_run)
    expected = expected_probability(exported_run, temperature=2.0)
    for batch in (1, 2, 7, 60):
        found = [
            session.run(None, {"image": image[start : start + batch]})[0]
            for start in range(0, len(image), batch)
        ]
        assert np.abs(np.concatenate(found) - expected).max() < 1e-5  # type: ignore[arg-type]


def test_decisions_are_those_of_the_stored_threshold(exported: Path, exported_run: Run) -> None:
    summary = json.loads((exported / "summary.json").read_text())
    session = onnxruntime.InferenceSession(exported / "model.onnx")
    found = session.run(None, {"image": validation_patches(exported_run)})[0]
    decided = np.asarray(found) >= summary["decision_threshold"]
    threshold = exported_run.threshold
    assert threshold is not None
    expected = expected_probability(exported_run, temperature=1.0) >= threshold.value
    assert (decided == expected).all()
    assert 0 < decided.sum() < len(decided)
    assert summary["files"]["model.onnx"]["flipped_decisions"] == 0
    metadata = session.get_modelmeta().custom_metadata_map
    assert float(metadata["decision_threshold"]) == summary["decision_threshold"]


def test_the_correction_for_the_share_of_tumour_is_exported(export, run: Run) -> None:
    logit = run.predictions("val").sort_values("row")["logit"].to_numpy(np.float64)
    store_threshold(run, prior_offset=-1.5)
    image = {"image": validation_patches(run)}

    def probability(folder: Path) -> np.ndarray:
        return np.asarray(onnxruntime.InferenceSession(folder / "model.onnx").run(None, image)[0])

    folder, _ = export(run)
    assert np.abs(probability(folder) - 1 / (1 + np.exp(-(logit - 1.5) / 2))).max() < 1e-5
    assert "-1.5 is added to logits" in (folder / "model_card.md").read_text()
    # Without a stored threshold the correction follows from the run: classes were drawn equally.
    (run.path / "threshold.json").unlink()
    summary = json.loads((run.path / "summary.json").read_text())
    for split in ("val", "test"):
        summary[split]["train_prevalence"] = 0.1
    write_json(run.path / "summary.json", summary)
    found = probability(export(run, name="uncalibrated")[0])
    assert np.abs(found - 1 / (1 + 9 * np.exp(-logit))).max() < 1e-5


def test_the_same_run_gives_the_same_bytes_and_names_no_folder(
    exported: Path, exported_run: Run, export, tmp_path: Path
) -> None:
    run = Run(shutil.copytree(exported_run.path, tmp_path / "run"))
    second, _ = export(run)
    first = (exported / "model.onnx").read_bytes()
    assert first == (second / "model.onnx").read_bytes()
    assert_no_folder_in(first, exported_run, run)


def assert_no_folder_in(content: bytes, *runs: Run) -> None:
    folders = [Path(pcam_lightning.__file__).parent, *(run.path for run in runs)]
    assert not [folder for folder in folders if str(folder).encode() in content]


def test_torch_export_gives_the_same(export, run: Run) -> None:
    folder, _ = export(run, "format=pt2")
    assert_no_folder_in((folder / "model.pt2").read_bytes(), run)
    module = torch.export.load(folder / "model.pt2").module()
    for batch in (1, 7, 60):
        found = module(torch.from_numpy(validation_patches(run)[:batch]))
        expected = expected_probability(run, temperature=2.0)[:batch]
        assert np.abs(found.detach().numpy() - expected).max() < 1e-5


def test_another_result_is_not_kept(export, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    load = onnx.load_onnx
    monkeypatch.setattr(onnx, "load_onnx", lambda path: lambda image: load(path)(image) + 1e-3)
    folder, text = export(run, code=1)
    assert "model.onnx" in text and list(folder.glob("*.onnx")) == []
    found = json.loads((folder / "summary.json").read_text())["files"]["model.onnx"]
    assert found["largest_difference"] == pytest.approx(1e-3, rel=0.01)


def test_the_loss_of_8_bits_is_measured(exported: Path, exported_run: Run) -> None:
    found = json.loads((exported / "summary.json").read_text())["files"]["model_int8.onnx"]
    session = onnxruntime.InferenceSession(exported / "model_int8.onnx")
    probability = np.asarray(session.run(None, {"image": validation_patches(exported_run)})[0])
    label = exported_run.predictions("val").sort_values("row")["label"]
    assert found["auroc"]["exported"] == pytest.approx(roc_auc_score(label, probability))
    expected = expected_probability(exported_run, temperature=2.0)
    difference = np.abs(probability - expected).max()
    assert difference > 0 and found["largest_difference"] == pytest.approx(difference, abs=1e-5)
    assert (exported / "model_int8.onnx").stat().st_size != (exported / "model.onnx").stat().st_size


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda run: store_threshold(run, tta="d4"), "tta=d4"),
        (lambda run: store_threshold(run, weights_digest="0" * 64), "threshold.json"),
        (lambda run: (run.path / "checkpoints" / "best.ckpt").unlink(), "best.ckpt"),
        (lambda run: (run.path / "summary.json").unlink(), "summary.json"),
    ],
)
def test_a_run_that_cannot_be_exported(export, run: Run, damage, named: str) -> None:
    damage(run)
    assert named in export(run, code=2)[1]


def test_data_that_is_not_the_runs(export, run: Run, pcam_root: Path) -> None:
    assert "data.root=" in export(run, "data.root=nowhere", code=2)[1]
    assert str(pcam_root) in export(run, f"data.root={pcam_root}", code=2)[1]


def test_the_card_has_the_measured_numbers(exported: Path, exported_run: Run) -> None:
    front = yaml.safe_load((exported / "model_card.md").read_text().split("---\n")[1])
    metrics = {
        each["name"]: each["value"] for each in front["model-index"][0]["results"][0]["metrics"]
    }
    table, threshold = exported_run.predictions("test"), exported_run.threshold
    assert metrics["auroc"] == pytest.approx(roc_auc_score(table["label"], table["probability"]))
    assert threshold is not None
    accuracy = ((table["probability"] >= threshold.value) == (table["label"] == 1)).mean()
    assert metrics["accuracy"] == pytest.approx(accuracy)
    text = (exported / "model_card.md").read_text()
    assert exported_run.summary["weights_digest"] in text and "not stated" in text


def test_the_card_shows_text_of_files_as_text(exported: Path, exported_run: Run) -> None:
    assert exported_run.manifest["dataset"]["name"] == HOSTILE
    page = (exported / "model_card.html").read_text()
    assert "<script" not in page and "<a " not in page and "javascript:1" in page


SLOW = ("timm convnext full", "timm swin lora", "timm vit with registers lora")


@pytest.mark.parametrize(
    "name",
    ["timm efficientnet head", "timm vit of any size head"]
    + [pytest.param(name, marks=pytest.mark.slow) for name in SLOW],
)
def test_networks_of_timm_are_exported(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    served = Served(NETWORKS[name](), temperature=2.0).eval()
    image = np.random.default_rng(0).integers(0, 256, (7, 96, 96, 3), dtype=np.uint8)
    with torch.no_grad():
        expected = served(torch.from_numpy(image)).numpy()
    onnx.write_onnx(served, tmp_path / "model.onnx", {})
    write_pt2(served, tmp_path / "model.pt2")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    module = torch.export.load(tmp_path / "model.pt2").module()
    for batch in (1, 2, 7):
        found = np.asarray(session.run(None, {"image": image[:batch]})[0])
        assert np.abs(found - expected[:batch]).max() < 1e-5
        found = module(torch.from_numpy(image[:batch])).detach().numpy()
        assert np.abs(found - expected[:batch]).max() < 1e-5
