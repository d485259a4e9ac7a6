"""The command `train` from end to end on small data."""

import hashlib
import json
import math
import os
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from pcam_files import SPLITS, random_split, write_split
from sklearn import metrics

from pcam_lightning.data.files import SplitFiles
from pcam_lightning.engine.module import PCamClassifier
from pcam_lightning.models import CNN
from pcam_lightning.runs import Run, find_runs

SWA = "lightning.pytorch.callbacks.StochasticWeightAveraging"  # needs an argument
TINY = [
    "trainer=cpu",
    "trainer.precision=32-true",
    "trainer.max_epochs=2",
    "trainer.log_every_n_steps=1",
    "data.batch_size=8",
    "model.channels=[4,4]",
]


@pytest.fixture
def slides(pcam_root: Path) -> np.ndarray:
    ids = np.array([f"slide_{row % 4}" for row in range(20)])
    for split in ("valid", "test"):
        rows = "".join(f"{row},0,0,True,True,{slide}\n" for row, slide in enumerate(ids))
        header = ",coord_y,coord_x,tumor_patch,center_tumor_patch,wsi\n"
        SplitFiles(pcam_root, split).meta.write_text(header + rows)
    return ids


def test_the_run_folder_is_complete(command, plots, pcam_root: Path, slides) -> None:
    code, out, err = command(f"data.root={pcam_root}", *TINY)
    assert code == 0, err
    last = out.splitlines()[-1]
    assert last.startswith("summary: ")
    folder = Path(last.removeprefix("summary: ")).parent
    run = Run(folder)
    assert folder.parent == Path("outputs/train/default").absolute()
    assert run.state == "finished"
    assert all(path.stat().st_size > 5000 for path in (folder / "plots").iterdir())
    assert {path.name for path in (folder / "plots").iterdir()} == {
        *("loss.png", "metrics.png", "learning_rate.png"),
        *("gradient_norm.png", "gradient_layers.png"),
        *(
            f"{kind}_{split}.png"
            for kind in ("roc", "pr", "confusion", "patches")
            for split in ("val", "test")
        ),
    }

    assert run.manifest["seed"] == 42
    assert run.manifest["dataset"]["name"] == "pcam"
    assert run.manifest["dataset"]["root"] == str(pcam_root)
    assert len(run.manifest["dataset"]["fingerprint"]) == 32
    assert "model.channels=[4,4]" in run.manifest["command"]
    assert run.config["data"]["root"] == str(pcam_root)
    assert "${" not in yaml.safe_dump(run.config)
    assert run.config["trainer"]["precision"] == "32-true"

    assert {
        "train/loss",
        "val/loss",
        "val/auroc",
        "val/f2",
        "val/accuracy",
        "lr",
        "grad/norm",
        "val/average_precision",
        "test/auroc",
    } <= set(run.metrics)
    assert len(run.metrics.dropna(subset=["val/auroc"])) == 2  # the final scoring adds none
    assert run.gradients["step"].tolist() == list(range(12))
    assert (folder / "tensorboard").is_dir()

    for split, files in (("val", "valid"), ("test", "test")):
        table = run.predictions(split)
        assert table["row"].tolist() == list(range(20))
        assert table["slide"].tolist() == slides.tolist()
        assert table["label"].tolist() == random_split(20)[1].astype(int).tolist(), files
        scores, label, probability = run.summary[split], table["label"], table["probability"]
        found = {name: value["value"] for name, value in scores["metrics"].items()}
        assert found["auroc"] == pytest.approx(metrics.roc_auc_score(label, probability), abs=1e-6)
        assert found["f2"] == pytest.approx(
            metrics.fbeta_score(label, probability >= 0.5, beta=2), abs=1e-6
        )
        assert found["accuracy"] == pytest.approx(((probability >= 0.5) == label).mean())
        assert scores["baselines"]["all_tumour"]["accuracy"] == pytest.approx(label.mean())
        assert scores["interval"]["unit"] == "slide"
    assert run.summary["dataset"] == "pcam"
    assert run.summary["data"]["rows"] == {"train": 48, "valid": 20, "test": 20}

    checkpoint = torch.load(run.best_checkpoint, weights_only=True)
    best = run.metrics["val/auroc"].max()
    assert run.summary["val"]["metrics"]["auroc"]["value"] == pytest.approx(best, abs=1e-6)
    digest = hashlib.sha256()
    for name in sorted(checkpoint["state_dict"]):
        value = checkpoint["state_dict"][name]
        digest.update(f"{name.removeprefix('model.')}|{tuple(value.shape)}|{value.dtype}|".encode())
        digest.update(value.contiguous().numpy().tobytes())
    assert run.summary["weights_digest"] == digest.hexdigest()


def test_averaged_weights_predict_both_splits(command, pcam_root: Path) -> None:
    averaged = ["callbacks=averaged", "callbacks.weight_averaging.multi_avg_fn.decay=0.5"]
    code, _, err = command(f"data.root={pcam_root}", "hydra.run.dir=run", *TINY, *averaged)
    assert code == 0, err
    run = Run("run")
    checkpoint = torch.load(run.best_checkpoint, weights_only=True)
    trained = checkpoint["current_model_state"]
    assert any(not value.equal(trained[name]) for name, value in checkpoint["state_dict"].items())
    module = PCamClassifier(CNN(channels=(4, 4))).eval()
    module.load_state_dict(checkpoint["state_dict"])
    for split, name in (("val", "valid"), ("test", "test")):
        with h5py.File(SplitFiles(pcam_root, name).images) as file, torch.no_grad():
            expected = module(torch.from_numpy(file["x"][()]))  # type: ignore[index]
        found = run.predictions(split)["logit"].to_numpy()
        assert found == pytest.approx(expected.numpy(), abs=1e-5)


def test_it_resumes_from_a_checkpoint_in_its_own_folder(command, pcam_root: Path) -> None:
    small = [f"data.root={pcam_root}", "scheduler=none", "logger=csv", *TINY]
    arguments = [*small, "hydra.run.dir=run"]
    assert command(*arguments)[0] == 0
    first = Run("run").summary
    code, out, _ = command(*arguments)  # nothing is left to do
    assert code == 0 and out.splitlines()[-1] == f"summary: {Path('run/summary.json').absolute()}"
    assert Run("run").summary == first and Run("run").status["attempt"] == 1

    code, _, err = command(
        *arguments, "ckpt_path=run/checkpoints/last.ckpt", "trainer.max_epochs=3"
    )
    assert code == 0, err
    run = Run("run")
    assert run.gradients["step"].tolist() == list(range(18))
    assert len(run.metrics.dropna(subset=["val/auroc"])) == 3
    assert run.status["attempt"] == 2

    # The same as training for three epochs at once.
    code, _, err = command(*arguments, "hydra.run.dir=whole", "trainer.max_epochs=3")
    assert code == 0, err
    pd.testing.assert_frame_equal(run.gradients, Run("whole").gradients)
    pd.testing.assert_frame_equal(run.predictions("test"), Run("whole").predictions("test"))


@pytest.mark.parametrize("scheduler", ["cosine", "plateau"])
def test_steps_replace_epochs(command, pcam_root: Path, scheduler: str) -> None:
    by_steps = ["trainer.max_epochs=-1", "+trainer.max_steps=9"]
    by_steps += ["+trainer.val_check_interval=7", "trainer.check_val_every_n_epoch=null"]
    code, out, err = command(
        f"data.root={pcam_root}", "hydra.run.dir=run", "logger=csv", f"scheduler={scheduler}",
        *TINY, *by_steps,
    )  # fmt: skip
    assert code == 0, err
    run = Run("run")
    assert run.state == "finished"
    assert run.gradients["step"].tolist() == list(range(9))
    assert run.gradients["epoch"].tolist() == [0] * 6 + [1] * 3
    assert run.metrics.dropna(subset=["val/auroc"])["step"].tolist() == [6, 8]
    best = torch.load(run.best_checkpoint, weights_only=True)
    assert best["global_step"] in (7, 9)
    scores = run.metrics["val/auroc"].dropna()
    assert run.summary["val"]["metrics"]["auroc"]["value"] == pytest.approx(scores.max(), abs=1e-6)
    last = torch.load(run.last_checkpoint, weights_only=True)
    assert last["global_step"] == 9
    assert "-1" not in next(line for line in out.splitlines() if line.startswith("epoch 2"))
    if scheduler == "cosine":  # over all nine steps, not over epochs
        expected = [0.05 * (1 + math.cos(math.pi * step / 9)) / 2 for step in range(9)]
        np.testing.assert_allclose(run.gradients["lr"], expected, rtol=1e-6)


def test_validation_patches_of_one_class(command, pcam_root: Path) -> None:
    """They are an error before training, unless callbacks monitor the loss instead."""
    write_split(pcam_root, "valid", random_split(20)[0], np.zeros(20))
    arguments = [f"data.root={pcam_root}", "logger=csv", *TINY]
    code, _, err = command(*arguments, "hydra.run.dir=rejected")
    assert code == 2 and not Path("rejected/metrics.csv").exists()
    (line,) = err.splitlines()
    assert "split_valid_y.h5" in line and "callbacks.checkpoint.monitor=val/loss" in line
    by_loss = [
        f"callbacks.{name}.{key}"
        for name in ("checkpoint", "early_stopping")
        for key in ("monitor=val/loss", "mode=min")
    ]
    code, out, err = command(*arguments, *by_loss, "hydra.run.dir=run")
    assert code == 0, err
    assert (out + err).count("split_valid_y.h5") == 1  # one warning
    run = Run("run")
    losses = run.metrics["val/loss"].dropna().to_numpy()
    assert len(losses) == 2
    best = torch.load(run.best_checkpoint, weights_only=True)
    assert best["global_step"] == 6 * (1 + int(losses.argmin()))  # epochs of six steps
    assert run.summary["val"]["metrics"]["auroc"]["value"] is None


def test_early_stopping_and_its_reason_are_in_the_output(command, pcam_root: Path) -> None:
    stopping = ["callbacks.early_stopping.patience=1", "+callbacks.early_stopping.min_delta=1"]
    code, out, err = command(
        f"data.root={pcam_root}", "hydra.run.dir=run", "logger=csv", *TINY,
        "trainer.max_epochs=9", *stopping,
    )  # fmt: skip
    assert code == 0, err
    assert Run("run").gradients["epoch"].tolist() == [0] * 6 + [1] * 6
    (line,) = [line for line in (out + err).splitlines() if "early stopping" in line]
    assert "after epoch 2" in line and "val/auroc" in line and "patience 1" in line


def test_debug_fast_takes_two_batches_of_each_split(command, pcam_root: Path) -> None:
    code, _, err = command(f"data.root={pcam_root}", "debug=fast", *TINY[:2], *TINY[4:])
    assert code == 0, err
    (run,) = find_runs("outputs/train/debug")
    assert len(run.gradients) == 2
    assert run.summary["test"]["rows"] == 16


def test_damaged_floats_are_counted_in_the_summary(command, pcam_root: Path) -> None:
    images, labels = random_split(24)
    damaged = images.astype(np.float32)
    damaged[5, 0, 0] = (np.nan, 1e5, -3)
    write_split(pcam_root, "train", damaged, labels)
    code, _, err = command(f"data.root={pcam_root}", "hydra.run.dir=run", *TINY)
    assert code == 0, err
    assert Run("run").summary["data"]["cleaning"]["train"] == {
        "nan": 1,
        "infinite": 0,
        "below_0": 1,
        "above_255": 1,
        "patches": 1,
    }


def test_scores_of_one_class_are_undefined(command, pcam_root: Path) -> None:
    images, _ = random_split(20)
    write_split(pcam_root, "test", images, np.zeros(20))
    code, out, err = command(f"data.root={pcam_root}", "hydra.run.dir=run", *TINY)
    assert code == 0, err
    summary = json.loads(Path("run/summary.json").read_text())
    assert summary["test"]["metrics"]["auroc"] == {"value": None, "low": None, "high": None}
    assert "undefined" in out


def test_the_demo_set_replaces_missing_data(command) -> None:
    small = ["data.demo.train=64", "data.demo.valid=32", "data.demo.test=32"]
    code, out, err = command("debug=fast", *small, *TINY[:2], *TINY[4:])
    assert code == 0, err
    assert "DEMO" in out and "dataset: demo" in out
    (run,) = find_runs("outputs")
    assert run.summary["dataset"] == run.manifest["dataset"]["name"] == "demo"
    assert Path(run.manifest["dataset"]["root"]).parent == Path("data/demo").absolute()


def test_a_setting_that_lightning_rejects_during_training_is_one_line(
    command, pcam_root: Path
) -> None:
    data = [f"data.root={pcam_root}", "hydra.run.dir=run", *TINY]
    clipping = ["+trainer.gradient_clip_algorithm=value", "trainer.precision=bf16-mixed"]
    code, _, err = command(*data, *clipping, "optimizer=adam")  # a fused optimizer
    line = err.splitlines()[-1]
    assert code == 2 and line.startswith("error: trainer: ") and "Traceback" not in err
    assert "this machine has" not in line  # the devices are not the cause
    assert Run("run").state == "failed"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data.root=nowhere"], "data.root=nowhere: 6 of the 6 PatchCamelyon files are missing"),
        (["data.root=nowhere", "data.on_missing=demo"], "data.root=nowhere"),
        (["data.on_missing=error"], "data.root=data/pcam"),
        (["trainer.accelerator=gpu"], "expected trainer.accelerator=cpu or auto"),
        (
            ["+optimizer.lrr=1"],
            "optimizer.lrr: no argument of pcam_lightning.engine.muon.Muon; valid: ",
        ),
        (["model._target_=torch.nn.Nothing"], "model._target_=torch.nn.Nothing: cannot be import"),
        (["ckpt_path=nothing.ckpt"], "ckpt_path=nothing.ckpt: no such file"),
        (["+trainer.overfit_batches=abc"], "trainer.overfit_batches='abc'"),
        (["+trainer.detect_anomaly=1"], "trainer.detect_anomaly=1"),
        (["+trainer.profiler=nope"], "trainer: "),
        ([f"+callbacks.swa._target_={SWA}"], "callbacks.swa: "),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_bad_input_is_one_line_and_marks_the_run_failed(command, arguments, message) -> None:
    if arguments == ["trainer.accelerator=gpu"] and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    code, out, err = command(*arguments, "hydra.run.dir=run")
    assert code == 2
    assert "summary:" not in out
    (line,) = err.splitlines()
    assert line.startswith("error: ") and message in line
    run = Run("run")
    assert run.state == "failed"
    assert run.status["error"]["text"] == line.removeprefix("error: ")
    assert not Path("run/summary.json").exists()


def test_a_missing_root_in_the_environment_is_an_error(command, monkeypatch) -> None:
    monkeypatch.setenv("PCAM_ROOT", "nowhere")
    code, _, err = command()
    assert code == 2 and "data.root=nowhere" in err


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_damaged_file_is_one_line(command, pcam_root: Path, split: str) -> None:
    images = SplitFiles(pcam_root, split).images
    os.truncate(images, images.stat().st_size - 5000)
    code, _, err = command(f"data.root={pcam_root}", "hydra.run.dir=run")
    assert code == 2
    (line,) = err.splitlines()
    assert images.name in line and "truncated" in line
    assert Run("run").state == "failed"


def test_a_sweep_gives_every_job_its_own_folder(command, pcam_root: Path) -> None:
    code, out, err = command(
        "--multirun", "seed=1,2", f"data.root={pcam_root}", *TINY, "trainer.max_epochs=1"
    )
    assert code == 0, err
    runs = find_runs("outputs")
    assert [run.manifest["seed"] for run in runs] == [1, 2]
    assert len({run.path.parent for run in runs}) == 1
    assert runs[0].summary["weights_digest"] != runs[1].summary["weights_digest"]
    assert out.count("summary: ") == 2


def test_mlflow_keeps_the_run_in_a_sqlite_store(command, pcam_root: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    code, _, err = command(f"data.root={pcam_root}", "logger=mlflow", "hydra.run.dir=run", *TINY)
    assert code == 0, err
    client = mlflow.MlflowClient("sqlite:///outputs/mlflow.db")
    experiment = client.get_experiment_by_name("default")
    (stored,) = client.search_runs([experiment.experiment_id])
    run = Run("run")
    assert stored.info.status == "FINISHED"
    assert stored.data.tags["run_dir"] == str(run.path.absolute())
    assert stored.data.params["optimizer/lr"] == "0.05"
    for name in ("val/auroc", "test/auroc"):
        last = run.metrics[name].dropna().iloc[-1]
        assert stored.data.metrics[name] == pytest.approx(last)


def test_wandb_keeps_the_run_offline(command, pcam_root: Path) -> None:
    pytest.importorskip("wandb")
    code, _, err = command(f"data.root={pcam_root}", "logger=wandb", "hydra.run.dir=run", *TINY)
    assert code == 0, err
    (store,) = Path("run/wandb").glob("offline-run-*/*.wandb")
    assert store.stat().st_size > 0
    assert Run("run").state == "finished"


# The same patches as other tools save them, with the scale to declare.
RESCALED = {
    "uint16": ("0-65535", lambda x: x.astype(np.uint16) * 257),
    "-1..1": ("-1-1", lambda x: (x / 127.5 - 1).astype(np.float32)),
    "less 128": ("[-128,127]", lambda x: x.astype(np.int16) - 128),
}


def test_a_declared_scale_trains_to_the_same_bytes(command, pcam_root: Path, tmp_path) -> None:
    once = ["trainer.max_epochs=1", "logger=csv"]
    code, _, err = command(f"data.root={pcam_root}", "hydra.run.dir=original", *TINY, *once)
    assert code == 0, err
    for number, (declared, other) in enumerate(RESCALED.values()):
        root = tmp_path / f"rescaled_{number}"
        for seed, (split, rows) in enumerate(zip(SPLITS, (48, 20, 20), strict=True)):
            images, labels = random_split(rows, seed)
            write_split(root, split, other(images), labels)
        arguments = [f"data.root={root}", f"hydra.run.dir=run_{number}", *TINY, *once]
        code, out, err = command(*arguments)
        assert code == 2 and "summary:" not in out
        (line,) = err.splitlines()
        assert "split_train_x.h5" in line and f"data.scale={declared}" in line
        code, _, err = command(*arguments, f"data.scale={declared}")
        assert code == 0, err
        digests = [Run(name).summary["weights_digest"] for name in ("original", f"run_{number}")]
        assert digests[0] == digests[1]


@pytest.mark.parametrize("value", ["0-256", "[1,0]", "[0,nan]", "[0,x]", "[0]", "5", "null"])
def test_an_invalid_scale_is_one_line(command, value: str) -> None:
    code, _, err = command(f"data.scale={value}")
    assert code == 2
    (line,) = err.splitlines()
    assert line.startswith("error: data.scale")


def test_bad_meta_files_give_a_warning_before_training(command, pcam_root: Path, slides) -> None:
    meta = SplitFiles(pcam_root, "test").meta
    meta.write_text("no;slides\n")
    code, out, err = command(f"data.root={pcam_root}", "hydra.run.dir=run", *TINY)
    assert code == 0, err
    assert len([line for line in (out + err).splitlines() if str(meta) in line]) == 1
    assert (out + err).index(str(meta)) < (out + err).index("epoch 1")
    summary = Run("run").summary
    assert summary["val"]["interval"]["unit"] == "slide"
    assert summary["test"]["interval"]["unit"] == "patch"
    code, out, err = command("run=run", "evaluate.resamples=100", "trainer=cpu", name="evaluate")
    assert code == 0, err
    assert (out + err).count(str(meta)) == 1 and "Traceback" not in err
