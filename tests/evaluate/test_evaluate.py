"""`evaluate` from end to end: a checkpoint, saved predictions, and what is wrong with either."""

import json
import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from pcam_files import random_split, write_split
from sklearn.metrics import recall_score, roc_auc_score

from pcam_lightning.data.files import SplitFiles
from pcam_lightning.data.patch_features import FEATURES, compute
from pcam_lightning.metrics.predictions import sigmoid
from pcam_lightning.runs import Run
from pcam_lightning.train import __main__ as train

PLAIN = ["trainer=cpu", "trainer.precision=32-true", "evaluate.resamples=100"]
NETWORK = ["model=cnn", "model.channels=[4,4]"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with data whose tumours are darker in the center, and a run on it."""
    top = tmp_path_factory.mktemp("trained")
    for seed, (split, rows) in enumerate((("train", 96), ("valid", 60), ("test", 60))):
        images, labels = random_split(rows, seed)
        images[labels, 32:64, 32:64] //= 2
        write_split(top / "pcam", split, images, labels)
        header = ",coord_y,coord_x,tumor_patch,center_tumor_patch,wsi\n"
        lines = "".join(f"{row},0,0,True,True,slide_{row % 6}\n" for row in range(rows))
        SplitFiles(top / "pcam", split).meta.write_text(header + lines)
    arguments = [f"data.root={top / 'pcam'}", *NETWORK, "data.batch_size=16", *PLAIN[:2]]
    arguments += [
        "trainer.max_epochs=3",
        "trainer.log_every_n_steps=1",
        f"hydra.run.dir={top / 'run'}",
    ]
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(top)
        patch.setattr(sys, "argv", ["train", *arguments])
        train.main()
    for handler in set(root.handlers) - set(handlers):
        handler.close()
    root.handlers[:], _ = handlers, root.setLevel(level)
    yield top


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Run:
    """A copy of the run that a test may change."""
    shutil.copytree(trained / "run", tmp_path / "run")
    return Run(tmp_path / "run")


@pytest.fixture
def evaluate(command, tmp_path: Path):
    def call(*arguments: str, to: str = "ev") -> tuple[int, str, str]:
        where = f"hydra.run.dir={tmp_path / to}"
        return command(*PLAIN, *arguments, where, name="evaluate")

    return call


def saved(folder: Path, rows: int = 300, seed: int = 0, **columns: Any) -> Path:
    """A folder with predictions of both splits, as another program may have written them."""
    folder.mkdir()
    for number, split in enumerate(("val", "test")):
        generator = np.random.default_rng((seed, number))
        label = generator.integers(2, size=rows)
        logit = generator.normal(2.0 * label - 1, 1.0)
        table = pd.DataFrame({"row": np.arange(rows), "label": label, "logit": logit})
        table["probability"] = sigmoid(logit)
        table = table.assign(**(columns if split == "test" else {}))
        table.to_parquet(folder / f"{split}.parquet")
    return folder


def summary_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())


def test_a_run_is_evaluated_and_again_from_its_predictions(
    run: Run, evaluate, trained: Path, tmp_path: Path
) -> None:
    code, out, err = evaluate(f"run={run.path}", "evaluate.threshold='recall>=0.95'")
    assert code == 0, err
    folder = tmp_path / "ev"
    assert out.splitlines()[-1] == f"summary: {folder / 'summary.json'}"
    assert "dataset: pcam" in out and "page: ev/page.html" in out
    evaluation = Run(folder)
    assert evaluation.state == "finished"
    assert evaluation.manifest["dataset"] == run.manifest["dataset"]
    assert {path.name for path in (folder / "plots").iterdir()} >= {
        *("threshold_val.png", "roc_test.png", "pr_test.png", "confusion_test.png"),
        *("reliability_test.png", "slices_test.png", "least_certain.png"),
    }

    # The same bits as the run's own scoring, with what the patches look like.
    for split, files in (("val", "valid"), ("test", "test")):
        ours, theirs = evaluation.predictions(split), run.predictions(split)
        pd.testing.assert_frame_equal(ours.loc[:, list(theirs)], theirs)
        images = random_split(60, ("train", "valid", "test").index(files))[0]
        images[theirs["label"] == 1, 32:64, 32:64] //= 2
        for name, values in compute(images).items():
            np.testing.assert_array_equal(ours[name], values)

    summary, val = summary_of(folder), evaluation.predictions("val")
    chosen = summary["threshold"]["value"]
    assert recall_score(val["label"], val["probability"] >= chosen) >= 0.95
    test = evaluation.predictions("test")
    auroc = summary["test"]["metrics"]["auroc"]["value"]
    assert auroc == pytest.approx(roc_auc_score(test["label"], test["probability"]))
    assert summary["test"]["interval"]["method"] == "bootstrap by slide"
    assert summary["test"]["baselines"].keys() == {"majority", "all_tumour", "prevalence"}
    assert summary["train_prevalence"] == {"value": 1 / 3, "source": "training labels"}
    assert summary["inference"]["weights_digest"] == run.summary["weights_digest"]

    kept = run.threshold
    assert kept is not None and kept == evaluation.threshold
    assert (kept.value, kept.rule, kept.tta) == (chosen, "recall>=0.95", "none")
    assert kept.temperature == summary["temperature"]
    assert kept.weights_digest == run.summary["weights_digest"]
    assert kept.dataset["fingerprint"] == run.manifest["dataset"]["fingerprint"]
    assert kept.validation["metrics"]["sensitivity"] >= 0.95

    table = pd.read_parquet(folder / "slices.parquet")
    assert set(table["property"]) == {"", *FEATURES, "slide"}
    text, shown = pd.read_csv(folder / "slices.csv"), ["slice", "rows", "auroc"]
    pd.testing.assert_frame_equal(text.loc[:, shown], table.loc[:, shown])

    arguments = [f"predictions={folder}", "evaluate.threshold='recall>=0.95'"]
    code, out, err = evaluate(*arguments, to="again")
    assert code == 0, err
    again = summary_of(tmp_path / "again")
    same = ("dataset", "threshold", "temperature", "val", "test", "calibration", "slices")
    assert {key: again[key] for key in same} == {key: summary[key] for key in same}
    assert again["galleries"] == summary["galleries"]
    for name in ("least_certain", "roc_test", "slices_test"):
        pictures = [tmp_path / place / "plots" / f"{name}.png" for place in ("ev", "again")]
        assert pictures[0].read_bytes() == pictures[1].read_bytes()


def test_a_training_runs_own_predictions_are_enough(run: Run, evaluate, tmp_path: Path) -> None:
    code, _, err = evaluate(f"predictions={run.path}", "evaluate.threshold=youden")
    assert code == 0, err
    assert set(FEATURES) < set(Run(tmp_path / "ev").predictions("test"))
    assert summary_of(tmp_path / "ev")["galleries"]["least_certain"] == 24
    assert run.threshold is not None and run.threshold.rule == "youden"
    assert run.threshold.weights_digest == run.summary["weights_digest"]


def test_without_the_data_galleries_are_left_out_and_that_is_said(
    run: Run, evaluate, trained: Path, tmp_path: Path
) -> None:
    manifest = run.manifest
    manifest["dataset"]["root"] = str(tmp_path / "moved")
    (run.path / "manifest.json").write_text(json.dumps(manifest))
    code, out, err = evaluate(f"predictions={run.path}/predictions")
    assert code == 0, err
    said = f"galleries are left out: the data is no longer in {tmp_path / 'moved'}"
    assert said in out + err
    summary = summary_of(tmp_path / "ev")
    assert "left out" in summary["galleries"]["left_out"]
    assert "left out" in (tmp_path / "ev" / "page.html").read_text()
    assert summary["train_prevalence"]["source"] == "training labels, as the run noted them"
    assert summary["train_prevalence"]["value"] == 1 / 3
    # Named, it is found.
    named = f"data.root={trained / 'pcam'}"
    code, _, err = evaluate(f"predictions={run.path}/predictions", named, to="named")
    assert code == 0, err
    assert summary_of(tmp_path / "named")["galleries"]["least_certain"] == 24


def test_the_patches_of_other_data_are_not_shown(
    run: Run, evaluate, pcam_root: Path, tmp_path: Path
) -> None:
    said = f"{pcam_root}: other data than the test predictions are of"
    code, out, err = evaluate(f"predictions={run.path}", f"data.root={pcam_root}")
    assert code == 0, err
    assert said in out + err  # of fewer rows
    code, _, err = evaluate(f"run={run.path}", to="described")
    assert code == 0, err
    for split in ("valid", "test"):
        images, labels = random_split(60, seed=7)  # of the same labels
        write_split(pcam_root, split, images // 3, labels)
    described = f"predictions={tmp_path / 'described'}"
    code, out, err = evaluate(described, f"data.root={pcam_root}", to="other")
    assert code == 0, err
    assert said in out + err


def test_predictions_from_elsewhere(evaluate, tmp_path: Path) -> None:
    folder = saved(tmp_path / "saved", scanner=["a", "b", "c"] * 100)
    code, out, err = evaluate(
        f"predictions={folder}",
        "evaluate.slices={a: {column: scanner, among: [a]}}",
        "evaluate.threshold=cost",
        "evaluate.cost_ratio=3",
    )
    assert code == 0, err
    assert "dataset: unknown" in out and "no data folder is known" in out + err
    summary = summary_of(tmp_path / "ev")
    assert summary["slices"]["scored"] == 1
    assert summary["threshold"]["cost_ratio"] == 3
    assert summary["train_prevalence"]["source"] == "labels of val"
    assert not (folder / "threshold.json").exists()  # no run to keep it with
    table = pd.read_parquet(tmp_path / "ev" / "slices.parquet")
    assert table["rows"].tolist() == [300, 100]


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_is_told_and_not_scored(evaluate, tmp_path: Path, label: int) -> None:
    brightness = np.linspace(0.2, 0.9, 300)
    folder = saved(tmp_path / "saved", label=label, brightness=brightness)
    code, out, err = evaluate(f"predictions={folder}")
    assert code == 0, err
    summary = summary_of(tmp_path / "ev")
    metrics = {name: score["value"] for name, score in summary["test"]["metrics"].items()}
    assert metrics["auroc"] is None and metrics["balanced_accuracy"] is None
    absent, present = ("sensitivity", "specificity")[:: 1 if label == 0 else -1]
    assert metrics[absent] is None and metrics[present] > 0
    assert (metrics["f2"] is None) == (label == 0)
    assert "undefined" in out


def test_constant_predictions_are_no_better_than_constants(evaluate, tmp_path: Path) -> None:
    folder = saved(tmp_path / "saved")
    for split in ("val", "test"):
        table = pd.read_parquet(folder / f"{split}.parquet")
        table.assign(logit=0.0, probability=0.5).to_parquet(folder / f"{split}.parquet")
    code, out, err = evaluate(f"predictions={folder}")
    assert code == 0, err
    beaten = summary_of(tmp_path / "ev")["test"]["beaten_by_constant"]
    assert {"auroc", "average_precision", "f2", "balanced_accuracy"} <= set(beaten)
    assert "! a constant does as well: auroc" in out


@pytest.mark.parametrize(
    ("split", "change", "said"),
    [
        ("test", lambda t: t.assign(probability=np.nan), "column probability has 300 missing or"),
        ("test", lambda t: t.drop(columns="logit"), r"missing columns \['logit'\]"),
        ("val", lambda t: t.iloc[:0], "the table has no rows"),
        ("val", lambda t: t.assign(label=0), "no tumour among the 300 patches"),
        ("val", lambda t: t.assign(label=1), "no normal patch among the 300 patches"),
        ("val", lambda t: t.assign(hue=np.nan), "val predictions: column hue: expected finite num"),
        ("test", lambda t: t.assign(blank="x"), "test predictions: column blank: expected finite"),
        ("val", None, "is chosen on validation, of which there are no predictions"),
        ("test", None, "no test.parquet there, expected a folder with it"),
    ],
)
def test_tables_that_cannot_be_used_are_one_line(
    evaluate, tmp_path: Path, split: str, change, said: str
) -> None:
    folder = saved(tmp_path / "saved")
    path = folder / f"{split}.parquet"
    if change is None:
        path.unlink()
    else:
        change(pd.read_parquet(path)).to_parquet(path)
    code, _, err = evaluate(f"predictions={folder}")
    assert code == 2
    assert re.search(said, err.splitlines()[-1]), err
    assert "Traceback" not in err


def test_a_given_threshold_needs_no_validation(evaluate, tmp_path: Path) -> None:
    folder = saved(tmp_path / "saved")
    (folder / "val.parquet").unlink()
    code, out, err = evaluate(f"predictions={folder}", "evaluate.threshold=0.4")
    assert code == 0, err
    summary = summary_of(tmp_path / "ev")
    assert summary["threshold"] == {
        "value": 0.4, "rule": "0.4", "beta": None, "cost_ratio": None, "chosen_on": None,
    }  # fmt: skip
    assert summary["temperature"] is None and "no temperature" in out
    assert "val" not in summary and summary["slices"]["cut_points_from"] == "test"


def test_validation_itself_is_reported_with_a_warning(evaluate, tmp_path: Path) -> None:
    folder = saved(tmp_path / "saved")
    code, out, err = evaluate(f"predictions={folder}", "split=val")
    assert code == 0, err
    assert "the split reported here: what it decides looks better than it will be" in out
    assert "test" not in summary_of(tmp_path / "ev")
    page = (tmp_path / "ev" / "page.html").read_text()
    assert "which is the split reported here" in page


def test_eight_orientations_with_gain_and_cost(run: Run, evaluate, tmp_path: Path) -> None:
    code, out, err = evaluate(f"run={run.path}", "evaluate.tta=d4", "evaluate.attribution=grad_cam")
    assert code == 0, err
    table, summary = Run(tmp_path / "ev").predictions("test"), summary_of(tmp_path / "ev")
    plain = run.predictions("test")
    np.testing.assert_array_equal(table["logit_without_tta"], plain["logit"])
    assert (table["logit"].to_numpy() != plain["logit"].to_numpy()).any()
    gain = summary["tta"]["gain"]["auroc"]["value"]
    before, after = (roc_auc_score(t["label"], t["probability"]) for t in (plain, table))
    assert gain == pytest.approx(after - before)
    assert summary["inference"]["tta_cost"] > 1
    assert "tta: auroc" in out and "times the time" in out
    assert run.threshold is not None and run.threshold.tta == "d4"

    assert summary["attribution"]["method"] == "grad_cam"
    assert 0 <= summary["attribution"]["in_center"]["least_certain"] <= 1
    assert (tmp_path / "ev" / "plots" / "least_certain_attribution.png").is_file()
    assert (
        "of what spoke for the decision lies in the center"
        in (tmp_path / "ev" / "page.html").read_text()
    )
    # Its gain is in the table, its cost was another day's.
    code, out, err = evaluate(f"predictions={tmp_path / 'ev'}", to="again")
    assert code == 0, err
    assert summary_of(tmp_path / "again")["tta"] == summary["tta"]


def test_a_checkpoint_anywhere_with_its_model_and_data_named(
    run: Run, evaluate, trained: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "some.ckpt"
    shutil.copy(run.best_checkpoint, moved)
    named = [f"data.root={trained / 'pcam'}", *NETWORK]
    code, _, err = evaluate(f"checkpoint={moved}", *named)
    assert code == 0, err
    alone = Run(tmp_path / "ev").predictions("test")
    np.testing.assert_allclose(alone["logit"], run.predictions("test")["logit"], atol=1e-5)

    code, _, err = evaluate(f"checkpoint={run.path}/checkpoints/last.ckpt", to="last")
    assert code == 0, err
    assert run.threshold is not None and run.threshold.checkpoint == "last.ckpt"

    code, _, err = evaluate(f"checkpoint={moved}", named[0], "model=mlp", to="other")
    assert code == 2 and "of another network" in err


def test_other_data_than_the_runs_is_used_and_said(
    run: Run, evaluate, pcam_root: Path, tmp_path: Path
) -> None:
    code, out, err = evaluate(f"run={run.path}", f"data.root={pcam_root}")
    assert code == 0, err
    assert "other data than the run was made with" in out + err
    assert summary_of(tmp_path / "ev")["test"]["rows"] == 20


def test_hospitals_are_slices(evaluate, tmp_path: Path) -> None:
    slides = [f"slide_{i % 6}" for i in range(300)]
    folder = saved(tmp_path / "saved", slide=slides)
    val = pd.read_parquet(folder / "val.parquet").assign(slide=slides)
    val.to_parquet(folder / "val.parquet")
    known = tmp_path / "hospitals.csv"
    known.write_text("slide,hospital\nslide_0,Utrecht\nslide_1,Utrecht\nslide_2,Nijmegen\n")
    code, _, err = evaluate(f"predictions={folder}", f"evaluate.hospitals={known}")
    assert code == 0, err
    table = pd.read_parquet(tmp_path / "ev" / "slices.parquet")
    found = table[table["property"] == "hospital"]
    assert dict(zip(found["slice"], found["rows"], strict=True)) == {
        "Utrecht": 100, "Nijmegen": 50, "unknown": 150,
    }  # fmt: skip
    for text, said in (("slide\na\n", "columns slide, hospital"),
                       ("slide,hospital\na,x\na,y\n", "slide a is there twice")):  # fmt: skip
        known.write_text(text)
        code, _, err = evaluate(f"predictions={folder}", f"evaluate.hospitals={known}", to="bad")
        assert code == 2 and said in err


def test_what_stands_in_a_table_does_not_run_in_the_page(evaluate, tmp_path: Path) -> None:
    evil = '<script>alert("1")</script>'
    folder = saved(tmp_path / "saved", slide=[evil, "b"] * 150)
    code, _, err = evaluate(f"predictions={folder}")
    assert code == 0, err
    page = (tmp_path / "ev" / "page.html").read_text()
    assert "<script" not in page and "&lt;script&gt;" in page
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page
    assert not re.search(r'(src|href)="(?!data:|#)', page)  # nothing is fetched


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "expected exactly one of run=, checkpoint= and predictions="),
        (["run=a", "checkpoint=b"], "expected exactly one of run="),
        (["run=nowhere"], "nowhere is no run folder"),
        (["checkpoint=nowhere.ckpt"], "checkpoint=nowhere.ckpt: no such file"),
        (["predictions=nowhere"], "predictions=nowhere: no test.parquet there"),
        (["run=a", "evaluate.threshold=f2"], "evaluate.threshold='f2': expected one of max_fbeta"),
        (["run=a", "evaluate.beta=0"], "evaluate.beta=0: expected greater than 0"),
        (["run=a", "evaluate.tta=d8"], "evaluate.tta='d8': expected 'none' or 'd4'"),
        (["run=a", "evaluate.resamples=10"], "evaluate.resamples=10: expected greater than"),
        (["run=a", "evaluate.slices={a: {column: hue}}"], "expected some of from"),
        (["run=a", "evaluate.slices={a: {column: hue, under: 1}}"], "under: no such key"),
        (["run=a", "trainer.devices=2"], "evaluate works on one device"),
        (["predictions=a", "evaluate.tta=d4"], "evaluate.tta=d4: needs the model"),
        (["predictions=a", "evaluate.attribution=occlusion"], "attribution=occlusion: needs the"),
    ],
)
def test_bad_input_is_one_line(evaluate, arguments: list[str], said: str) -> None:
    code, _, err = evaluate(*arguments)
    assert code == 2
    assert err.count("\n") == 1 and said in err, err


def test_what_a_run_cannot_have_is_one_line(run: Run, evaluate, tmp_path: Path) -> None:
    arguments = [f"run={run.path}", "evaluate.slices={mine: {column: color, below: 1}}"]
    code, _, err = evaluate(*arguments)
    assert code == 2 and "evaluate.slices.mine.column=color: no such column" in err
    (run.path / "checkpoints" / "best.ckpt").write_bytes(b"no checkpoint")
    code, _, err = evaluate(f"run={run.path}", to="damaged")
    assert code == 2 and "best.ckpt: cut short, damaged or no checkpoint" in err


def test_a_manifest_cannot_name_any_code(run: Run, evaluate) -> None:
    manifest = run.manifest
    manifest["config"]["model"] = {"_target_": "os.mkdir", "path": "made"}
    (run.path / "manifest.json").write_text(json.dumps(manifest))
    code, _, err = evaluate(f"run={run.path}")
    assert code == 2 and "manifest.json: config.model._target_=os.mkdir" in err
    assert not Path("made").exists()


def test_a_checkpoint_with_code_in_it_is_not_loaded(run: Run, evaluate) -> None:
    checkpoint = torch.load(run.best_checkpoint, weights_only=True)
    checkpoint["extra"] = Path("x")
    torch.save(checkpoint, run.best_checkpoint)
    code, _, err = evaluate(f"run={run.path}")
    assert code == 2 and "expected tensors and plain containers, found pathlib" in err


def test_logits_that_are_no_numbers_are_one_line(run: Run, evaluate) -> None:
    checkpoint = torch.load(run.best_checkpoint, weights_only=True)
    checkpoint["state_dict"]["model.head.1.bias"].fill_(torch.nan)
    torch.save(checkpoint, run.best_checkpoint)
    code, _, err = evaluate(f"run={run.path}")
    assert code == 2 and "column logit has 60 missing or NaN values, first at row 0" in err


def large(folder: Path, rows: int = 32768, slides: int = 50) -> Path:
    generator = np.random.default_rng(0)
    others: dict[str, Any] = {name: generator.random(rows) for name in FEATURES}
    others["slide"] = [f"slide_{i:02d}" for i in generator.integers(slides, size=rows)]
    saved(folder, rows, **others)
    val = pd.read_parquet(folder / "val.parquet").assign(**others)
    val.to_parquet(folder / "val.parquet")
    return folder


@pytest.mark.slow
def test_a_whole_split_takes_seconds(tmp_path: Path) -> None:
    folder = large(tmp_path / "saved")
    threads = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}
    before = os.times()
    result = subprocess.run(
        [sys.executable, "-m", "pcam_lightning.evaluate", f"predictions={folder}"],
        cwd=tmp_path,
        env={**os.environ, **threads},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    after = os.times()
    spent = after.children_user + after.children_system
    spent -= before.children_user + before.children_system
    print(f"32,768 rows, 50 slides: {spent:.1f} s of one core")
    assert spent < 20


@pytest.mark.slow
def test_the_page_opens_in_a_browser(run: Run, evaluate, tmp_path: Path) -> None:
    browser = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    if browser is None:
        pytest.skip("there is no chromium here; apt-get install chromium")
    assert evaluate(f"run={run.path}", "evaluate.attribution=occlusion")[0] == 0
    shot, page = tmp_path / "page.png", tmp_path / "ev" / "page.html"
    common = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'user'}"]
    subprocess.run(
        [browser, *common, f"--screenshot={shot}", "--window-size=1200,6000", page.as_uri()],
        check=True,
        capture_output=True,
        timeout=120,
    )
    from PIL import Image

    with Image.open(shot) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    yellow = (pixels == (240, 228, 66)).all(2)  # the outline of a center, drawn by the browser
    assert yellow.sum() > 24 * 200
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 10_000  # patches and plots are there
