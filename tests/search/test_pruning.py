"""Pruning of real trainings, and a real search."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from pcam_files import random_split, write_split

from pcam_lightning.runs import Run
from pcam_lightning.search.study import PRUNED, open_storage

optuna = pytest.importorskip("optuna")
pytestmark = pytest.mark.slow

SMALL = [
    "model=mlp",
    "model.hidden=[8]",
    "scheduler=none",
    "augment=none",
    "trainer=cpu",
    "trainer.precision=32-true",
    "trainer.log_every_n_steps=1",
    "data.batch_size=16",
    "logger=csv",
]
GOOD, BAD = 3e-3, 1e-9


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Write patches whose class is easy to predict."""
    root = tmp_path_factory.mktemp("data")
    for seed, (split, rows) in enumerate((("train", 96), ("valid", 64), ("test", 64))):
        images, labels = random_split(rows, seed)
        images[labels == 1] //= 2
        write_split(root, split, images, labels)
    return root


@pytest.fixture
def study(tmp_path: Path):
    """Create two complete trials with a high score in every epoch, and two trials to run."""
    study = optuna.create_study(
        storage=open_storage(tmp_path / "study.journal"), study_name="search", direction="maximize"
    )
    for _ in range(2):
        trial = study.ask()
        for epoch in range(8):
            trial.report(0.9, epoch)
        study.tell(trial, 0.9)
    study.ask()
    study.ask()
    return study


def pruning(trial: int) -> list[str]:
    values = {
        "_target_": "pcam_lightning.search.pruning.Pruning",
        "storage": "study.journal",
        "study": "search",
        "trial": trial,
        "metric": "val/auroc",
        "startup_trials": 2,
        "warmup_epochs": 2,
    }
    return [f"+callbacks.pruning.{key}={value}" for key, value in values.items()]


def epochs(run: Run) -> int:
    return len(run.metrics.dropna(subset=["val/auroc"]))


def test_a_bad_run_is_pruned_and_finishes_like_any_other(command, root: Path, study) -> None:
    arguments = [f"data.root={root}", *SMALL, "trainer.max_epochs=5"]
    for trial, lr in ((2, BAD), (3, GOOD)):
        run = (f"optimizer.lr={lr}", f"hydra.run.dir={trial}", *pruning(trial))
        code, out, err = command(*arguments, *run)
        assert code == 0, err
        assert ("pruned after epoch 3" in out) == (trial == 2)
    bad, good = (Run(folder) for folder in ("2", "3"))
    assert (bad.state, epochs(bad), epochs(good)) == ("finished", 3, 5)
    assert bad.summary["val"]["metrics"]["auroc"]["value"] < 0.9
    trial = study.trials[2]
    logged = bad.metrics["val/auroc"].dropna().tolist()
    assert list(trial.intermediate_values) == [0, 1, 2]
    assert list(trial.intermediate_values.values()) == pytest.approx(logged)
    assert trial.user_attrs == {PRUNED: 2} and study.trials[3].user_attrs == {}

    # Repeated, even after the trial's end: the same run, and nothing is reported twice.
    before = Path("study.journal").read_text()
    study.tell(2, state=optuna.trial.TrialState.PRUNED)
    code, _, err = command(
        *arguments, f"optimizer.lr={BAD}", "hydra.run.dir=again", *pruning(2), "seed=42"
    )
    assert code == 0, err
    assert Run("again").summary["weights_digest"] == bad.summary["weights_digest"]
    added = Path("study.journal").read_text().removeprefix(before)
    assert added.count("\n") == 1  # by study.tell

    # Killed during the test, after the last epoch has been saved.
    status = json.loads(Path("2/status.json").read_text())
    Path("2/status.json").write_text(json.dumps(status | {"state": "running", "process": "gone"}))
    digest = bad.summary["weights_digest"]
    Path("2/summary.json").unlink()
    code, _, err = command(*arguments, f"optimizer.lr={BAD}", "hydra.run.dir=2", *pruning(2))
    assert code == 0, err
    assert (epochs(bad), bad.summary["weights_digest"]) == (3, digest)


def test_a_bad_run_is_complete_after_its_last_epoch(command, root: Path, study) -> None:
    arguments = [f"data.root={root}", *SMALL, "trainer.max_epochs=3", f"optimizer.lr={BAD}"]
    code, _, err = command(*arguments, "hydra.run.dir=run", *pruning(2))
    assert code == 0, err
    assert list(study.trials[2].intermediate_values) == [0, 1, 2]
    assert study.trials[2].user_attrs == {}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("storage=nothing.journal", "callbacks.pruning.storage=nothing.journal: no such file"),
        ("trial=7", "callbacks.pruning.trial=7: study.journal has no such trial of a study search"),
        ("study=other", "has no such trial of a study other"),
    ],
)
def test_a_missing_study_is_one_line(command, root, study, change: str, expected: str) -> None:
    arguments = [f"data.root={root}", *SMALL, "trainer.max_epochs=1", "hydra.run.dir=run"]
    code, _, err = command(*arguments, *pruning(2), f"callbacks.pruning.{change}")
    assert code == 2
    assert expected in err.splitlines()[-1]
    assert not Path("nothing.journal").exists()


def test_a_search_with_real_runs(root: Path, tmp_path: Path) -> None:
    search = [
        "sweep=optuna",
        "hydra.sweeper.trials=3",
        "hydra.sweeper.startup_trials=1",
        "hydra.sweeper.warmup_epochs=1",
        "optimizer.weight_decay=0",
        "data.batch_size=8,16",
        "trainer.max_epochs=3",
    ]
    small = [each for each in SMALL if not each.startswith("data.batch_size")]
    process = subprocess.run(
        [sys.executable, "-m", "pcam_lightning.train", f"data.root={root}", *small, *search],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    last = process.stdout.splitlines()[-1]
    folder = Path(last.removeprefix("study: ")).parent
    assert folder.parent == tmp_path / "outputs" / "train" / "optuna"
    report = json.loads((folder / "study.json").read_text())
    assert sum(report["trials"].values()) == 3 and "fail" not in report["trials"]
    assert report["dataset"] == "pcam"
    best = Run(folder / report["best"]["folder"])
    assert best.summary["val"]["metrics"]["auroc"]["value"] == report["best"]["value"]
    assert str(best.config["data"]["batch_size"]) == report["best"]["parameters"]["data.batch_size"]
    runs = [Run(folder / str(number)) for number in range(3)]
    table = pd.read_csv(folder / "study.csv")
    assert [run.config["optimizer"]["lr"] for run in runs] == table["optimizer.lr"].tolist()
    assert all(run.manifest["seed"] == 42 and run.state == "finished" for run in runs)
