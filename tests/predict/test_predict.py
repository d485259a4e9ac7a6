"""The same patches in any form give the same predictions; what cannot be read is skipped."""

import json
import os
import shutil
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from pcam_layouts import channels_first, declared_datasets, kaggle, packed
from PIL import Image
from sklearn.metrics import roc_auc_score

from pcam_lightning.data.files import SplitFiles, read_labels
from pcam_lightning.predict import inputs
from pcam_lightning.runs import Run
from pcam_lightning.runs.threshold import Threshold, write_threshold


@pytest.fixture(scope="module")
def trained(trained_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained run in `run`, its data in `pcam`, its test patches in `png`."""
    folder = tmp_path_factory.mktemp("predict")
    shutil.copytree(trained_run.path, folder / "run")
    shutil.copytree(trained_run.manifest["dataset"]["root"], folder / "pcam")
    (folder / "png").mkdir()
    with h5py.File(SplitFiles(folder / "pcam", "test").images) as file:
        for row, pixels in enumerate(file["x"][:]):  # type: ignore[index]
            Image.fromarray(pixels).save(folder / "png" / f"{row:02}.png")
    return folder


@pytest.fixture
def predict(command, trained: Path, tmp_path: Path):
    def call(*arguments: str, code: int = 0, run: bool = True) -> tuple[pd.DataFrame, dict, str]:
        model = [f"run={trained / 'run'}"] if run else []
        folder = tmp_path / "predicted"
        shutil.rmtree(folder, ignore_errors=True)
        words = (*model, *arguments, "trainer.accelerator=cpu", f"hydra.run.dir={folder}")
        found, out, err = command(*words, name="predict")
        assert found == code, out + err
        if code == 2:
            assert err.count("\n") == 1, err
            return pd.DataFrame(), {}, err
        summary = json.loads((folder / "summary.json").read_text())
        return pd.read_parquet(folder / "predictions.parquet"), summary, out + err

    return call


def test_h5_images_glob_and_csv_give_what_the_run_predicted(
    predict, trained: Path, tmp_path: Path
) -> None:
    expected = Run(trained / "run").predictions("test")
    labels = read_labels(SplitFiles(trained / "pcam", "test"))
    names = [f"{row:02}.png" for row in range(60)]
    table = pd.DataFrame({"id": [name.removesuffix(".png") for name in names], "label": labels})
    kaggle = tmp_path / "kaggle"
    shutil.copytree(trained / "png", kaggle / "train")
    table.to_csv(kaggle / "train_labels.csv", index=False)
    shuffled = table.assign(path=["png/" + name for name in names]).sample(frac=1, random_state=0)
    shuffled[["path", "label"]].to_csv(trained / "list.csv", index=False)
    inputs = {
        "h5": SplitFiles(trained / "pcam", "test").images,
        "folder": trained / "png",
        "glob": f"{trained}/png/*.png",
        "csv": trained / "list.csv",
        "kaggle": kaggle,
    }
    found = pd.DataFrame()
    for kind, path in inputs.items():
        found, summary, _ = predict(f"input={path}", "data.batch_size=7")
        if kind == "csv":
            found = found.sort_values("file", ignore_index=True)
        np.testing.assert_allclose(found["probability"], expected["probability"], atol=1e-6)
        assert ("label" in found) == (kind in ("h5", "csv", "kaggle"))
        if "label" in found:
            assert list(found["label"]) == list(labels)
            auroc = summary["metrics"]["metrics"]["auroc"]["value"]
            assert auroc == pytest.approx(roc_auc_score(labels, found["probability"]))
    csv = pd.read_csv(tmp_path / "predicted" / "predictions.csv")
    assert list(csv["decision"]) == list(found["decision"])


def test_a_pcam_folder_is_predicted_whole(predict, trained: Path) -> None:
    found, summary, _ = predict(f"input={trained / 'pcam'}")
    assert summary["patches"] == len(found) == 216
    assert set(found["file"]) == {f"camelyonpatch_level_2_split_{s}_x.h5" for s in
                                  ("train", "valid", "test")}  # fmt: skip


def _channels_first_under_other_names(root: Path) -> list[str]:
    channels_first(root)
    declared_datasets(root)
    return ["data.keys=[images,targets]"]


@pytest.mark.parametrize("change", [packed, kaggle, _channels_first_under_other_names])
def test_a_pcam_folder_of_any_layout_is_predicted(predict, trained, tmp_path, change) -> None:
    expected, _, _ = predict(f"input={trained / 'pcam'}")
    shutil.copytree(trained / "pcam", tmp_path / "copy")
    found, _, _ = predict(f"input={tmp_path / 'copy'}", *(change(tmp_path / "copy") or ()))
    key = ["probability", "label"]
    found, expected = (each.sort_values(key, ignore_index=True) for each in (found, expected))
    np.testing.assert_allclose(found[key], expected[key], atol=1e-6)


def test_a_packed_file_is_named_with_or_without_gz(predict, trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "pcam", tmp_path / "copy")
    path = SplitFiles(tmp_path / "copy", "test").images
    expected, _, _ = predict(f"input={path}")
    packed(tmp_path / "copy")
    for name in (path, f"{path}.gz"):
        found, _, _ = predict(f"input={name}")
        np.testing.assert_array_equal(found["probability"], expected["probability"])
        assert list(found["label"]) == list(expected["label"])
        path.unlink()


def test_processes_and_threads_decode_the_same(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(trained / "png", tmp_path / "png")
    (tmp_path / "png" / "30.png").write_bytes(b"damaged")
    found = []
    for fewest in (1, 10**9):
        monkeypatch.setattr(inputs, "PROCESS_FILES", fewest)
        source = inputs.find_input(str(tmp_path / "png"), "center", "auto")
        batches = list(source.batches(7))
        images = np.concatenate([batch.image for batch in batches])
        found.append((images, [batch.columns for batch in batches], source.skipped))
    np.testing.assert_array_equal(found[0][0], found[1][0])
    assert found[0][1:] == found[1][1:] and len(found[0][2]) == 1


def test_larger_images_are_cropped_tiled_or_resized(
    predict, plots, trained: Path, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (200, 300, 3), dtype=np.uint8)
    (tmp_path / "large").mkdir()
    Image.fromarray(image).save(tmp_path / "large" / "a.png")
    parts = tmp_path / "parts"
    parts.mkdir()
    Image.fromarray(image[52:148, 102:198]).save(parts / "center.png")
    corners = [(x, y) for y in (0, 96) for x in (0, 96, 192)]
    for x, y in corners:
        Image.fromarray(image[y : y + 96, x : x + 96]).save(parts / f"tile_{y:03}_{x:03}.png")
    expected = predict(f"input={parts}")[0]["probability"].to_numpy()
    center = predict(f"input={tmp_path / 'large'}")[0]
    np.testing.assert_allclose(center["probability"], expected[:1], atol=1e-6)
    tiles = predict(f"input={tmp_path / 'large'}", "predict.fit=tile", "data.batch_size=4")[0]
    np.testing.assert_allclose(tiles["probability"], expected[1:], atol=1e-6)
    assert list(zip(tiles["x"], tiles["y"], strict=True)) == corners
    for picture in ("heat_map_0", "contact_sheet"):
        assert (tmp_path / "predicted" / "plots" / f"{picture}.png").stat().st_size > 5000
    resized = predict(f"input={tmp_path / 'large'}", "predict.fit=resize")[0]
    assert len(resized) == 1


def test_the_stored_threshold_decides_and_the_most_uncertain_are_left_undecided(
    predict, trained: Path, tmp_path: Path
) -> None:
    found, summary, text = predict(f"input={trained / 'png'}")
    assert summary["threshold"] == {"value": 0.5, "rule": "default"} and "no threshold" in text
    value = float(np.sort(found["probability"])[12])
    found, _, _ = predict(
        f"input={trained / 'png'}", f"predict.threshold={value}", "predict.abstain=0.1"
    )
    tumour = found["probability"] >= value
    undecided = found["decision"] == "undecided"
    assert undecided.sum() == 6
    decided = found[~undecided]
    assert list(decided["decision"] == "tumour") == list(tumour[~undecided])
    logit = found["logit"].to_numpy(np.float64)
    distance = np.abs(logit - np.log(value / (1 - value)))
    assert distance[undecided].max() <= distance[~undecided].min()


def test_calibrated_probabilities_have_temperature_and_prior_offset(
    predict, trained: Path, trained_run: Run
) -> None:
    values = {
        "value": 0.5, "rule": "youden", "temperature": 2.0, "prior_offset": -1.5, "tta": "none",
        "checkpoint": "best.ckpt", "dataset": {}, "validation": {},
        "weights_digest": trained_run.summary["weights_digest"],
    }  # fmt: skip
    write_threshold(trained / "run", Threshold(**values))
    found, summary, _ = predict(f"input={trained / 'png'}")
    (trained / "run" / "threshold.json").unlink()
    expected = 1 / (1 + np.exp(-(found["logit"].to_numpy(np.float64) - 1.5) / 2))
    assert np.abs(found["calibrated"] - expected).max() < 1e-9
    assert (summary["temperature"], summary["prior_offset"]) == (2.0, -1.5)


HOSTILE = ("truncated", "text", "cmyk", "sixteen", "sixteen_rgb", "alpha", "huge", "loop", "small")


def hostile(folder: Path) -> None:
    """Write one file of each kind of `HOSTILE`, and a sound one."""
    rng = np.random.default_rng(0)
    sound = Image.fromarray(rng.integers(0, 256, (96, 96, 3), dtype=np.uint8))
    sound.save(folder / "sound.png")
    content = (folder / "sound.png").read_bytes()
    (folder / "truncated.png").write_bytes(content[: len(content) // 2])
    (folder / "text.png").write_text("<html>Not Found</html>")
    sound.convert("CMYK").save(folder / "cmyk.jpg")
    Image.fromarray(rng.integers(0, 65536, (96, 96), dtype=np.uint16)).save(folder / "sixteen.tif")
    # A 16-bit RGB PNG, which Pillow cannot write: its header says so.
    head = bytearray(content)
    head[24] = 16
    (folder / "sixteen_rgb.png").write_bytes(bytes(head))
    palette = sound.quantize(16)
    palette.save(folder / "alpha.png", transparency=3)
    Image.new("1", (40_000, 40_000)).save(folder / "huge.png")
    os.symlink("loop.png", folder / "loop.png")
    sound.crop((0, 0, 40, 96)).save(folder / "small.png")


def test_unreadable_files_are_listed_and_the_rest_is_predicted(predict, tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    hostile(folder)
    found, summary, text = predict(f"input={folder}", code=1)
    assert list(found["file"]) == ["sound.png"]
    skipped = pd.read_csv(tmp_path / "predicted" / "skipped.csv")
    assert sorted(Path(name).stem for name in skipped["file"]) == sorted(HOSTILE)
    assert summary["skipped"] == len(HOSTILE)
    assert skipped["reason"].str.len().min() > 5 and not skipped["reason"].str.contains("\n").any()
    assert "Traceback" not in text


def test_a_csv_cannot_name_files_of_other_folders(predict, trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "csv"
    shutil.copytree(trained / "png", folder / "png")
    secret = tmp_path / "secret.png"
    shutil.copy(trained / "png" / "00.png", secret)
    os.symlink(secret, folder / "png" / "link.png")
    names = ["png/00.png", "../secret.png", str(secret), "png/link.png", "=cmd()", "png/none.png"]
    pd.DataFrame({"path": names}).to_csv(folder / "list.csv", index=False)
    found, _, _ = predict(f"input={folder / 'list.csv'}", code=1)
    assert list(found["file"]) == ["png/00.png"]
    text = (tmp_path / "predicted" / "skipped.csv").read_text()
    assert len(text.splitlines()) == 1 + 5
    assert not any(line.startswith("=") for line in text.splitlines())


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("input=nowhere",), "input=nowhere"),
        (("input=empty",), "input=empty"),
        (("input=*.nothing",), "input=*.nothing"),
        (("input=bad.csv",), "bad.csv"),
        (("input=bad.h5",), "bad.h5"),
        (("input=bad.h5.gz",), "bad.h5"),
        (("input=lone.h5.gz",), "lone.h5.gz"),
        (("input=bad.h5", "data.keys=[x]"), "data.keys"),
        (("input=bad.png",), "bad.png"),
        (("input=notes.txt",), "input=notes.txt"),
        (("input=empty", "predict.abstain=1"), "predict.abstain=1"),
        (("input=empty", "predict.fit=stretch"), "predict.fit='stretch'"),
    ],
)
def test_bad_input_is_one_line(predict, arguments, named: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.csv").write_text("a;b\n1;2\n")
    for name in ("bad.h5", "bad.png", "notes.txt", "lone.h5.gz"):
        (tmp_path / name).write_text("nothing")
    err = predict(*arguments, code=2)[2]
    assert named in err


def test_a_model_is_named_once(predict, trained: Path) -> None:
    assert "run=" in predict(f"input={trained / 'png'}", code=2, run=False)[2]


def test_a_checkpoint_outside_a_run_needs_its_model(predict, trained: Path, tmp_path: Path) -> None:
    checkpoint = shutil.copy(trained / "run" / "checkpoints" / "best.ckpt", tmp_path / "a.ckpt")
    arguments = (f"checkpoint={checkpoint}", f"input={trained / 'png'}")
    assert "another network" in predict(*arguments, code=2, run=False)[2]
    found, _, text = predict(*arguments, "model=cnn", "model.channels=[4,4]", run=False)
    expected = Run(trained / "run").predictions("test")
    np.testing.assert_allclose(found["probability"], expected["probability"], atol=1e-6)
    assert "drift" in text  # that it is not checked
