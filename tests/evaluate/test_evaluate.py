"""Tests of the command `evaluate`: runs, checkpoints and saved predictions, and invalid input."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from pcam_files import random_split
from sklearn.metrics import recall_score, roc_auc_score

from pcam_lightning.data.patch_features import FEATURES, compute
from pcam_lightning.engine import PCamClassifier
from pcam_lightning.engine.augment import StainJitter
from pcam_lightning.evaluate.analysis import analyze
from pcam_lightning.metrics.predictions import sigmoid
from pcam_lightning.models import CNN
from pcam_lightning.runs import Run

PLAIN = [
    "trainer=cpu",
    "trainer.precision=32-true",
    "evaluate.resamples=100",
    "evaluate.gallery=4",
]


@pytest.fixture
def run(trained_run: Run, tmp_path: Path) -> Run:
    """A copy of the trained run, which `evaluate` writes its threshold to."""
    return Run(shutil.copytree(trained_run.path, tmp_path / "run"))


@pytest.fixture
def evaluate(command, tmp_path: Path):
    def call(*arguments: str, to: str = "ev") -> tuple[int, str, str]:
        return command(*PLAIN, *arguments, f"hydra.run.dir={tmp_path / to}", name="evaluate")

    return call


def save_predictions(folder: Path, rows: int = 300, seed: int = 0, **columns: Any) -> Path:
    """Write val.parquet and test.parquet with random logits and the given columns."""
    folder.mkdir()
    for number, split in enumerate(("val", "test")):
        generator = np.random.default_rng((seed, number))
        label = generator.integers(2, size=rows)
        logit = generator.normal(2.0 * label - 1, 1.0)
        table = pd.DataFrame({"row": np.arange(rows), "label": label, "logit": logit})
        table.assign(probability=sigmoid(logit), **columns).to_parquet(folder / f"{split}.parquet")
    return folder


def change_table(path: Path, **columns: Any) -> None:
    pd.read_parquet(path).assign(**columns).to_parquet(path)


def change_or_remove(path: Path, change: Callable[[pd.DataFrame], pd.DataFrame] | None) -> None:
    if change is None:
        path.unlink()
    else:
        change(pd.read_parquet(path)).to_parquet(path)


def read_summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())


def test_evaluation_of_a_run_and_of_its_predictions(
    run: Run, evaluate, plots, tmp_path: Path
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
        *("coverage_test.png", "reliability_test.png", "slices_test.png", "least_certain.png"),
    }

    # The predictions are bit-identical to the run's own.
    for seed, split in ((1, "val"), (2, "test")):
        found, expected = evaluation.predictions(split), run.predictions(split)
        pd.testing.assert_frame_equal(found.loc[:, list(expected)], expected)
        images, labels = random_split(60, seed)
        images[labels, 32:64, 32:64] //= 2
        for name, values in compute(images).items():
            np.testing.assert_array_equal(found[name], values)

    summary, val = read_summary(folder), evaluation.predictions("val")
    threshold = summary["threshold"]["value"]
    assert recall_score(val["label"], val["probability"] >= threshold) >= 0.95
    test = evaluation.predictions("test")
    auroc = summary["test"]["metrics"]["auroc"]["value"]
    assert auroc == pytest.approx(roc_auc_score(test["label"], test["probability"]))
    assert summary["test"]["interval"]["unit"] == "slide"
    assert summary["test"]["baselines"].keys() == {"majority", "all_tumour", "prevalence"}
    assert summary["train_prevalence"] == {"value": 1 / 3, "source": "training labels"}
    assert summary["inference"]["weights_digest"] == run.summary["weights_digest"]

    saved = run.threshold
    assert saved is not None and saved == evaluation.threshold
    assert (saved.value, saved.rule, saved.tta) == (threshold, "recall>=0.95", "none")
    assert saved.temperature == summary["temperature"]
    assert saved.weights_digest == run.summary["weights_digest"]
    assert saved.dataset["fingerprint"] == run.manifest["dataset"]["fingerprint"]
    assert saved.validation["metrics"]["sensitivity"] >= 0.95

    table = pd.read_parquet(folder / "slices.parquet")
    assert set(table["property"]) == {"", *FEATURES, "slide"}
    text, columns = pd.read_csv(folder / "slices.csv"), ["slice", "rows", "auroc"]
    pd.testing.assert_frame_equal(text.loc[:, columns], table.loc[:, columns])

    arguments = [f"predictions={folder}", "evaluate.threshold='recall>=0.95'"]
    code, out, err = evaluate(*arguments, to="again")
    assert code == 0, err
    again = read_summary(tmp_path / "again")
    same = ("dataset", "threshold", "temperature", "val", "test", "calibration", "slices")
    assert {key: again[key] for key in same} == {key: summary[key] for key in same}
    assert again["galleries"] == summary["galleries"]
    for name in ("least_certain", "roc_test", "slices_test"):
        pictures = [tmp_path / place / "plots" / f"{name}.png" for place in ("ev", "again")]
        assert pictures[0].read_bytes() == pictures[1].read_bytes()


def test_predictions_of_a_run_whose_data_has_moved(run: Run, evaluate, tmp_path: Path) -> None:
    manifest = run.manifest
    root = manifest["dataset"]["root"]
    manifest["dataset"]["root"] = str(tmp_path / "moved")
    (run.path / "manifest.json").write_text(json.dumps(manifest))
    code, out, err = evaluate(f"predictions={run.path}/predictions", "evaluate.threshold=youden")
    assert code == 0, err
    assert f"no galleries: {tmp_path / 'moved'}" in out + err
    summary = read_summary(tmp_path / "ev")
    assert "left out" in summary["galleries"]["left_out"]
    assert "left out" in (tmp_path / "ev" / "page.html").read_text()
    assert summary["train_prevalence"] == {
        "value": 1 / 3, "source": "training labels, recorded by the run",
    }  # fmt: skip
    assert run.threshold is not None and run.threshold.rule == "youden"
    assert run.threshold.weights_digest == run.summary["weights_digest"]

    code, _, err = evaluate(f"predictions={run.path}", f"data.root={root}", to="named")
    assert code == 0, err
    assert read_summary(tmp_path / "named")["galleries"]["least_certain"] == 4
    assert set(FEATURES) < set(Run(tmp_path / "named").predictions("test"))


def test_predictions_of_another_program(evaluate, tmp_path: Path) -> None:
    slides = [f"slide_{i % 6}" for i in range(300)]
    scanners = ["a", "b", "c"] * 100
    folder = save_predictions(tmp_path / "saved", slide=slides, scanner=scanners)
    hospitals = tmp_path / "hospitals.csv"
    hospitals.write_text("slide,hospital\nslide_0,Utrecht\nslide_1,Utrecht\nslide_2,Nijmegen\n")
    code, out, err = evaluate(
        f"predictions={folder}",
        "evaluate.slices={a: {column: scanner, among: [a]}}",
        f"evaluate.hospitals={hospitals}",
        "evaluate.threshold=cost",
        "evaluate.cost_ratio=3",
    )
    assert code == 0, err
    assert "dataset: unknown" in out and "the data folder is unknown" in out + err
    summary = read_summary(tmp_path / "ev")
    assert summary["threshold"]["cost_ratio"] == 3
    assert summary["train_prevalence"]["source"] == "labels of val"
    assert not (folder / "threshold.json").exists()
    table = pd.read_parquet(tmp_path / "ev" / "slices.parquet").set_index("slice")
    assert summary["slices"]["scored"] == len(table) - 1 == 10
    assert table["rows"][["everything", "a", "Utrecht", "Nijmegen", "unknown"]].tolist() == [
        300, 100, 100, 50, 150,
    ]  # fmt: skip


def test_a_test_split_without_tumour(evaluate, tmp_path: Path) -> None:
    folder = save_predictions(tmp_path / "saved", brightness=np.linspace(0.2, 0.9, 300))
    change_table(folder / "test.parquet", label=0)
    code, out, err = evaluate(f"predictions={folder}")
    assert code == 0, err
    scores = read_summary(tmp_path / "ev")["test"]["metrics"]
    undefined = {name for name, score in scores.items() if score["value"] is None}
    assert {"auroc", "balanced_accuracy", "sensitivity", "f2"} <= undefined
    assert scores["specificity"]["value"] > 0
    assert "undefined" in out


def test_constant_predictions_do_not_beat_constants(evaluate, tmp_path: Path) -> None:
    folder = save_predictions(tmp_path / "saved")
    for split in ("val", "test"):
        change_table(folder / f"{split}.parquet", logit=0.0, probability=0.5)
    code, out, err = evaluate(f"predictions={folder}", "split=val")
    assert code == 0, err
    summary = read_summary(tmp_path / "ev")
    beaten = summary["val"]["beaten_by_constant"]
    assert {"auroc", "average_precision", "f2", "balanced_accuracy"} <= set(beaten)
    assert "! a constant predictor is at least as good: auroc" in out
    # The threshold was chosen on the reported split.
    assert "test" not in summary and "too optimistic on val" in out
    assert "too optimistic" in (tmp_path / "ev" / "page.html").read_text()


# Each table makes the command exit with 2 and one line that names the fault.
@pytest.mark.parametrize(
    ("split", "change", "named"),
    [
        ("test", lambda t: t.assign(probability=np.nan), "column probability"),
        ("test", lambda t: t.drop(columns="logit"), "'logit'"),
        ("val", lambda t: t.iloc[:0], "no rows"),
        ("val", lambda t: t.assign(label=0), "no tumour among the 300 patches"),
        ("val", lambda t: t.assign(hue=np.nan), "val predictions: column hue: expected"),
        ("test", lambda t: t.assign(blank="x"), "test predictions: column blank: expected"),
        ("val", None, "evaluate.threshold=max_fbeta"),
        ("test", None, "no test.parquet"),
    ],
)
def test_invalid_predictions(evaluate, tmp_path: Path, split: str, change, named: str) -> None:
    folder = save_predictions(tmp_path / "saved")
    change_or_remove(folder / f"{split}.parquet", change)
    code, _, err = evaluate(f"predictions={folder}")
    assert code == 2
    assert named in err.splitlines()[-1], err
    assert "Traceback" not in err


def save_members(folder: Path, **columns: Any) -> list[Path]:
    """Write predictions of the same patches by three networks."""
    folder.mkdir()
    members = [save_predictions(folder / str(number), **columns) for number in range(3)]
    for number, member in enumerate(members):
        for path in member.glob("*.parquet"):
            noise = np.random.default_rng(number).normal(scale=2, size=300)
            logit = pd.read_parquet(path)["logit"].to_numpy() + noise
            change_table(path, logit=logit, probability=sigmoid(logit))
    return members


def test_of_several_predictions_the_mean_logit_is_evaluated(evaluate, tmp_path: Path) -> None:
    members = save_members(tmp_path / "saved", brightness=np.linspace(0.2, 0.9, 300))
    code, _, err = evaluate(f"predictions=[{','.join(map(str, members))}]")
    assert code == 0, err
    tables = [pd.read_parquet(member / "test.parquet") for member in members]
    expected = sum(table["logit"] for table in tables) / 3
    found = Run(tmp_path / "ev").predictions("test")
    np.testing.assert_allclose(found["logit"], expected, rtol=1e-12)
    summary = read_summary(tmp_path / "ev")
    subject = f"Mean of predictions from {members[0]}, {members[1]}, {members[2]}."
    assert summary["subject"] == subject
    auroc = summary["test"]["metrics"]["auroc"]["value"]
    assert auroc == pytest.approx(roc_auc_score(tables[0]["label"], expected))
    assert auroc > max(roc_auc_score(each["label"], each["logit"]) for each in tables)
    assert summary["run"] is None and summary["slices"]["scored"] > 0


def test_predictions_of_several_runs(run: Run, evaluate, tmp_path: Path) -> None:
    other = Run(shutil.copytree(run.path, tmp_path / "other"))
    code, _, err = evaluate(f"predictions=[{run.path},{other.path}]")
    assert code == 0, err
    summary = read_summary(tmp_path / "ev")
    assert summary["train_prevalence"] == {"value": 1 / 3, "source": "training labels"}
    assert summary["test"]["metrics"]["auroc"] == run.summary["test"]["metrics"]["auroc"]
    # A threshold of the mean is not one of a member.
    assert run.threshold is other.threshold is None
    assert Run(tmp_path / "ev").threshold is not None

    manifest = other.manifest
    manifest["dataset"]["fingerprint"] = "0" * 64
    (other.path / "manifest.json").write_text(json.dumps(manifest))
    code, _, err = evaluate(f"predictions=[{run.path},{other.path}]", to="two")
    assert code == 2 and err == f"error: {other.path}: another data set than that of {run.path}\n"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda t: t.assign(label=1 - t["label"]), "column label differs from that of"),
        (lambda t: t.iloc[1:], "column row differs from that of"),
        (lambda t: t.assign(logit_without_tta=t["logit"]), "expected evaluate.tta as in"),
        (None, "splits test, expected those of"),
    ],
)
def test_predictions_that_have_no_mean(evaluate, tmp_path: Path, change, named: str) -> None:
    members = save_members(tmp_path / "saved")
    change_or_remove(members[1] / "val.parquet", change)
    code, _, err = evaluate(f"predictions=[{members[0]},{members[1]}]")
    assert code == 2
    assert str(members[1]) in err.splitlines()[-1] and named in err.splitlines()[-1], err
    code, _, err = evaluate(f"predictions=[{members[0]},{members[2]},{members[0]}]", to="twice")
    assert (code, err) == (2, f"error: predictions={members[0]}: named twice\n")


def test_a_given_threshold_needs_no_validation(evaluate, tmp_path: Path) -> None:
    folder = save_predictions(tmp_path / "saved")
    (folder / "val.parquet").unlink()
    code, out, err = evaluate(f"predictions={folder}", "evaluate.threshold=0.4")
    assert code == 0, err
    summary = read_summary(tmp_path / "ev")
    assert summary["threshold"] == {
        "value": 0.4, "rule": "0.4", "beta": None, "cost_ratio": None, "chosen_on": None,
    }  # fmt: skip
    assert summary["temperature"] is None and "no temperature" in out
    assert "val" not in summary and summary["slices"]["cut_points_from"] == "test"


def test_augmentation_and_attribution(run: Run, evaluate, tmp_path: Path) -> None:
    code, out, err = evaluate(f"run={run.path}", "evaluate.tta=d4", "evaluate.attribution=grad_cam")
    assert code == 0, err
    evaluation, summary = Run(tmp_path / "ev"), read_summary(tmp_path / "ev")
    plain, table = run.predictions("test"), evaluation.predictions("test")
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
    page = (tmp_path / "ev" / "page.html").read_text()
    assert "% of the attribution lies in the center" in page
    # The saved predictions give the same gain.
    tables = {split: evaluation.predictions(split) for split in ("val", "test")}
    assert analyze(tables, "test", 1 / 3, resamples=100).summary["tta"] == summary["tta"]


def test_in_random_stain_colors(run: Run, evaluate, tmp_path: Path) -> None:
    code, out, err = evaluate(f"run={run.path}", "evaluate.stain_jitter=0.8")
    assert code == 0, err
    module = PCamClassifier(CNN((4, 4)))
    module.load_state_dict(torch.load(run.best_checkpoint, weights_only=True)["state_dict"])
    network, jitter, generator = module.model.eval(), StainJitter(0.8), torch.Generator()
    generator.manual_seed(0)
    expected, plain = {}, {}
    for seed, split in ((1, "val"), (2, "test")):
        images, labels = random_split(60, seed)
        images[labels, 32:64, 32:64] //= 2
        with torch.no_grad():
            patches = torch.from_numpy(images).split(16)
            logits = [network(jitter(batch, generator)) for batch in patches]
        expected[split] = pytest.approx(roc_auc_score(labels, torch.cat(logits)))
        plain[split] = pytest.approx(roc_auc_score(labels, run.predictions(split)["logit"]))
    assert expected["test"].expected != plain["test"].expected
    summary = read_summary(tmp_path / "ev")
    assert summary["inference"]["stain_jitter"] == {
        "strength": 0.8, "auroc": expected, "auroc_without": plain,
    }  # fmt: skip
    assert summary["test"]["metrics"]["auroc"]["value"] == plain["test"]
    line = "in random stain colors (strength 0.8): auroc "
    assert line in out and line in (tmp_path / "ev" / "page.html").read_text()


def test_a_checkpoint_and_other_data(run: Run, evaluate, pcam_root: Path, tmp_path: Path) -> None:
    moved = tmp_path / "some.ckpt"
    shutil.copy(run.best_checkpoint, moved)
    root = f"data.root={run.manifest['dataset']['root']}"
    code, _, err = evaluate(f"checkpoint={moved}", root, "model=cnn", "model.channels=[4,4]")
    assert code == 0, err
    logits = Run(tmp_path / "ev").predictions("test")["logit"]
    np.testing.assert_allclose(logits, run.predictions("test")["logit"], atol=1e-5)

    last = run.path / "checkpoints" / "last.ckpt"
    code, out, err = evaluate(f"checkpoint={last}", f"data.root={pcam_root}", to="last")
    assert code == 0, err
    assert f"{pcam_root}: not the data that the run was trained with" in out + err
    assert read_summary(tmp_path / "last")["test"]["rows"] == 20
    assert run.threshold is not None and run.threshold.checkpoint == "last.ckpt"

    code, _, err = evaluate(f"checkpoint={moved}", root, "model=mlp", to="other")
    assert code == 2 and str(moved) in err.splitlines()[-1]


# Each command line exits with 2 before any work, and one line that names the key at fault.
@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "run=, checkpoint= and predictions="),
        (["run=a", "checkpoint=b"], "run=, checkpoint= and predictions="),
        (["run=nowhere"], "nowhere"),
        (["checkpoint=nowhere.ckpt"], "checkpoint=nowhere.ckpt"),
        (["predictions=nowhere"], "predictions=nowhere"),
        (["predictions=[]"], "predictions"),
        (["run=a", "evaluate.threshold=f2"], "evaluate.threshold='f2': expected one of max_fbeta"),
        (["run=a", "evaluate.beta=0"], "evaluate.beta=0"),
        (["run=a", "evaluate.tta=d8"], "evaluate.tta='d8': expected 'none' or 'd4'"),
        (["run=a", "evaluate.slices={a: {column: hue}}"], "expected at least one of from"),
        (["run=a", "evaluate.slices={a: {column: hue, under: 1}}"], "under"),
        (["run=a", "trainer.devices=2"], "trainer.devices=1"),
        (["predictions=a", "evaluate.tta=d4"], "evaluate.tta=d4"),
        (["predictions=a", "evaluate.stain_jitter=0.2"], "evaluate.stain_jitter=0.2"),
        (["run=a", "evaluate.stain_jitter=0"], "evaluate.stain_jitter=0"),
    ],
)
def test_invalid_arguments(evaluate, arguments: list[str], named: str) -> None:
    code, _, err = evaluate(*arguments)
    assert code == 2
    assert err.count("\n") == 1 and named in err, err


def name_foreign_code(run: Run) -> None:
    manifest = run.manifest
    manifest["config"]["model"] = {"_target_": "os.mkdir", "path": "made"}
    (run.path / "manifest.json").write_text(json.dumps(manifest))


def add_pickled_object(run: Run) -> None:
    checkpoint = torch.load(run.best_checkpoint, weights_only=True)
    torch.save(checkpoint | {"extra": Path("x")}, run.best_checkpoint)


def set_bias_to_nan(run: Run) -> None:
    checkpoint = torch.load(run.best_checkpoint, weights_only=True)
    checkpoint["state_dict"]["model.head.1.bias"].fill_(torch.nan)
    torch.save(checkpoint, run.best_checkpoint)


# Each fault in a run makes the command exit with 2 and one line; nothing in a run is executed.
@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (name_foreign_code, "manifest.json: config.model._target_=os.mkdir"),
        (lambda run: run.best_checkpoint.write_bytes(b"no checkpoint"), "best.ckpt"),
        (add_pickled_object, "pathlib"),
        (set_bias_to_nan, "column logit has 60 missing or NaN values, first at row 0"),
        (lambda run: None, "evaluate.slices.mine.column=color"),
    ],
)
def test_invalid_runs(run: Run, evaluate, damage, named: str) -> None:
    damage(run)
    code, _, err = evaluate(f"run={run.path}", "evaluate.slices={mine: {column: color, below: 1}}")
    assert code == 2
    assert named in err.splitlines()[-1] and "Traceback" not in err
    assert not Path("made").exists()


@pytest.mark.slow
def test_the_page_opens_in_a_browser(run: Run, evaluate, plots, tmp_path: Path) -> None:
    browser = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    if browser is None:
        pytest.skip("there is no chromium here; apt-get install chromium")
    options = ("evaluate.attribution=occlusion", "evaluate.gallery=24")
    assert evaluate(f"run={run.path}", *options)[0] == 0
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
