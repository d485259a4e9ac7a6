"""`python -m pcam_lightning.bundle`, and the archive on a machine without this package."""

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
import onnxruntime
import pandas as pd
import pytest
import safetensors.numpy
import torch
import yaml
from bundle_files import bundle_files
from PIL import Image

from pcam_lightning.bundle.archive import write_archive
from pcam_lightning.data.files import SplitFiles
from pcam_lightning.runs import Run
from pcam_lightning.runs.bundle import Bundle
from pcam_lightning.runs.threshold import Threshold, write_threshold


@pytest.fixture(scope="module")
def archive(trained_run: Run, made_once, command_in) -> Path:
    """A bundle of the run in the folder `run` beside it, with five golden patches.

    The run is a copy of the trained run with a stored threshold.
    """

    def bundle(folder: Path) -> None:
        run = Run(shutil.copytree(trained_run.path, folder / "run"))
        threshold = Threshold(
            value=0.45, rule="youden", temperature=1.7, tta="none", checkpoint="best.ckpt",
            weights_digest=run.summary["weights_digest"], dataset={"name": "pcam"}, validation={},
        )  # fmt: skip
        write_threshold(run.path, threshold)
        words = (f"run={run.path}", "bundle.golden=5", f"hydra.run.dir={folder / 'made'}")
        command_in(folder, *words, name="bundle")

    (path,) = (made_once("bundle", bundle) / "made").glob("*.zip")
    return path


@pytest.fixture(scope="module")
def run(archive: Path) -> Run:
    return Run(archive.parents[1] / "run")


@pytest.fixture
def make(command, run: Run, tmp_path: Path):
    def call(*arguments: str, to: str = "made", code: int = 0) -> tuple[Path, str]:
        folder = tmp_path / to
        found, out, err = command(
            f"run={run.path}", *arguments, f"hydra.run.dir={folder}", name="bundle"
        )
        assert found == code, out + err
        archives = list(folder.glob("*.zip"))
        assert len(archives) == (code == 0)
        return archives[0] if archives else folder, out + err

    return call


def test_the_bytes_of_a_bundle_do_not_depend_on_its_folder(make, archive: Path) -> None:
    second, _ = make("bundle.golden=5")
    assert archive.read_bytes() == second.read_bytes() and archive.name == second.name


def test_an_unpacked_bundle_verifies_and_predicts_alone(
    archive: Path, run: Run, tmp_path: Path
) -> None:
    with zipfile.ZipFile(archive) as content:
        content.extractall(tmp_path / "there")
    (folder,) = (tmp_path / "there").iterdir()
    network = ["unshare", "-n"] if shutil.which("unshare") else []
    if network and subprocess.run([*network, "true"], capture_output=True).returncode:
        network = []  # not permitted here
    done = subprocess.run(
        [*network, sys.executable, "verify.py"], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("patch_") == 5

    # The golden probabilities are those of the run: sigmoid(logit / temperature).
    table = run.predictions("val").sort_values("row")
    known = 1 / (1 + np.exp(-table["logit"].to_numpy(np.float64) / 1.7))
    with h5py.File(SplitFiles(Path(run.manifest["dataset"]["root"]), "valid").images) as file:
        patches = np.asarray(file["x"])
    for name, probability in pd.read_csv(folder / "golden" / "expected.csv").itertuples(False):
        image = np.asarray(Image.open(folder / "golden" / name))
        (row,) = np.flatnonzero((patches == image).all((1, 2, 3)))
        assert probability == pytest.approx(known[row], abs=1e-6)

    (tmp_path / "patches").mkdir()
    for row in range(8):
        Image.fromarray(np.asarray(patches[row])).save(tmp_path / "patches" / f"{row}.png")
    script = [sys.executable, "predict.py", str(tmp_path / "patches")]
    done = subprocess.run(
        [*script, "--output", str(tmp_path / "out.csv")], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = pd.read_csv(tmp_path / "out.csv")
    np.testing.assert_allclose(found["probability"], known[:8], atol=1e-5)
    logit = table["logit"].to_numpy()[:8]
    tumour = 1 / (1 + np.exp(-logit)) >= 0.45  # the stored rule, on uncalibrated probabilities
    assert list(found["decision"] == "tumour") == list(tumour)


def test_the_contents_are_the_runs(archive: Path, run: Run) -> None:
    bundle = Bundle(archive)
    assert bundle.metadata.weights_digest == run.summary["weights_digest"]
    assert bundle.threshold == run.threshold and bundle.features == run.features
    assert sum(name.endswith(".png") for name in bundle.names) == 5
    weights = safetensors.numpy.load(bundle.weights())
    state = torch.load(run.best_checkpoint, weights_only=True)["state_dict"]
    assert {f"model.{name}" for name in weights} == state.keys()
    assert all((state[f"model.{name}"].numpy() == each).all() for name, each in weights.items())
    text = bundle.read("configs/config.yaml").decode()
    assert yaml.safe_load(text)["model"] == run.manifest["config"]["model"]
    for name in bundle.names:
        assert str(run.path.parent).encode() not in bundle.read(name), name
    assert "MIT" in bundle.read("LICENSE").decode()


def test_predict_gives_the_same_with_a_bundle(
    archive: Path, command, run: Run, tmp_path: Path
) -> None:
    images = SplitFiles(Path(run.manifest["dataset"]["root"]), "test").images
    found = {}
    for name, source in {"run": run.path, "bundle": archive}.items():
        folder = tmp_path / f"by_{name}"
        words = (f"{name}={source}", f"input={images}", "trainer.accelerator=cpu")
        code, out, err = command(*words, f"hydra.run.dir={folder}", name="predict")
        assert code == 0, out + err
        found[name] = pd.read_parquet(folder / "predictions.parquet")
        summary = json.loads((folder / "summary.json").read_text())
        assert summary["drift"] is not None and summary["threshold"]["rule"] == "youden"
    pd.testing.assert_frame_equal(found["run"], found["bundle"])


def test_no_code_of_a_bundle_runs(command, tmp_path: Path) -> None:
    files = bundle_files()
    metadata = json.loads(bytes(files["configs/metadata.json"]))  # type: ignore[arg-type]
    made = tmp_path / "made"
    metadata["model"] = {"_target_": "os.mkdir", "path": str(made)}
    files |= {"configs/metadata.json": json.dumps(metadata).encode()}
    write_archive(tmp_path / "bad.zip", "bad", files)
    image = tmp_path / "a.png"
    Image.new("RGB", (96, 96)).save(image)
    words = (f"bundle={tmp_path / 'bad.zip'}", f"input={image}", "trainer.accelerator=cpu")
    code, _, err = command(*words, name="predict")
    assert code == 2 and err.count("\n") == 1 and "metadata.json" in err
    assert not made.exists()


@pytest.mark.parametrize(
    ("argument", "named"),
    [
        ("bundle.sign=nowhere.pem", "nowhere.pem"),
        ("data.root=nowhere", "data.root="),
        ("bundle.wheels=gpu", "bundle.wheels"),
        ("bundle.golden=0", "bundle.golden"),
    ],
)
def test_bad_input_is_one_line(make, argument: str, named: str) -> None:
    _, text = make(argument, code=2)
    assert named in text and text.count("\n") == 1


def test_files_of_format_1_are_read(command, tmp_path: Path) -> None:
    """A bundle and a run of version 1 of the formats, kept as they were written."""
    archive = Path(__file__).with_name("bundle_v1.zip")
    with zipfile.ZipFile(archive) as content:
        content.extractall(tmp_path)
    (folder,) = tmp_path.glob("pcam-*")
    expected = pd.read_csv(folder / "golden" / "expected.csv")
    session = onnxruntime.InferenceSession(folder / "models" / "model.onnx")
    image = np.stack(
        [np.asarray(Image.open(folder / "golden" / name)) for name in expected["file"]]
    )
    found = np.asarray(session.run(None, {"image": image})[0])
    np.testing.assert_allclose(found, expected["probability"], atol=1e-4)
    # The run folder and the checkpoint of that version, too.
    run = shutil.copytree(Path(__file__).parents[1] / "runs" / "run_v1", tmp_path / "run")
    for number, model in enumerate((f"bundle={archive}", f"run={run}")):
        words = (model, f"input={folder / 'golden'}", "trainer.accelerator=cpu")
        code, out, err = command(*words, f"hydra.run.dir=predicted_{number}", name="predict")
        assert code == 0, out + err
        predicted = pd.read_parquet(f"predicted_{number}/predictions.parquet")
        np.testing.assert_allclose(predicted["calibrated"], expected["probability"], atol=1e-5)
    last = torch.load(Path(run) / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["format_version"] == 1
