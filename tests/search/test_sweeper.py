"""Whole searches with runs whose score is a formula."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import stand_in_launcher
from filelock import FileLock
from stand_in_launcher import ARGUMENTS, StandIn, peak, write_status

from pcam_lightning.search.pruning import Pruning

optuna = pytest.importorskip("optuna")


@pytest.fixture
def search(command, monkeypatch):
    """Return a function that calls `train sweep=optuna` with the stand-in launcher."""
    stand_in_launcher.register()
    monkeypatch.setattr(StandIn, "batches", [])

    def call(*arguments: str, job=lambda config, folder: peak(config)) -> tuple[int, str, str]:
        monkeypatch.setattr(StandIn, "job", staticmethod(job))
        return command(*ARGUMENTS, *arguments)

    return call


def trials(folder: str = "search") -> Any:
    return pd.read_csv(Path(folder) / "study.csv")


@pytest.mark.slow
def test_a_search_beats_random_trials(search) -> None:
    code, out, err = search("hydra.sweeper.trials=24", "hydra.sweeper.parallel=3")
    assert code == 0, err
    table = trials()
    assert table["trial"].tolist() == list(range(24))
    assert table["value"].tolist() == pytest.approx(
        [1 - 0.2 * math.log10(lr / 0.01) ** 2 for lr in table["optimizer.lr"]]
    )
    assert table["value"][5:].max() > table["value"][:5].max()
    assert table["value"][15:].median() > table["value"][:5].median()
    assert table["optimizer.lr"][table["value"].idxmax()] == pytest.approx(0.01, rel=0.1)

    report = json.loads(Path("search/study.json").read_text())
    best = table.loc[table["value"].idxmax()]
    assert report["best"]["trial"] == best["trial"]
    assert report["best"]["parameters"]["optimizer.lr"] == best["optimizer.lr"]
    assert (report["dataset"], report["direction"]) == ("formula", "maximize")
    assert next(iter(report["importance"])) == "optimizer.lr"
    assert report["importance"]["optimizer.lr"] > 0.8
    assert {path.name for path in Path("search/plots").iterdir()} == {
        "history.png",
        "importance.png",
    }
    line = [line for line in out.splitlines() if line.startswith("best of 24: ")][-1]
    assert f"trial {best['trial']}, val/auroc {best['value']:.4f}" in line
    assert Path(line.rpartition(" ")[2]).is_dir()
    overrides = json.loads(Path(f"search/{best['trial']}/.hydra/overrides.yaml").read_text())
    assert f"optimizer.lr={report['best']['parameters']['optimizer.lr']}" in overrides


def test_a_batch_is_one_launch(search) -> None:
    assert search("hydra.sweeper.trials=3", "hydra.sweeper.parallel=2")[0] == 0
    assert StandIn.batches == [(0, 2), (2, 1)]
    assert trials()["optimizer.lr"].nunique() == 3


@pytest.mark.slow
def test_a_killed_search_continues_with_the_same_result(search, tmp_path: Path) -> None:
    whole = "hydra.sweeper.trials=6"
    assert search(whole, "hydra.sweep.dir=whole")[0] == 0
    script = Path(stand_in_launcher.__file__)
    for number in (2, 4):
        killed = subprocess.run(
            [sys.executable, script, str(number), *ARGUMENTS, whole], capture_output=True, text=True
        )
        assert killed.returncode == -9, killed.stderr
        assert len(trials()) == number
    StandIn.batches.clear()
    code, _, err = search(whole)
    assert code == 0, err
    assert StandIn.batches == [(4, 1), (5, 1)]
    pd.testing.assert_frame_equal(trials(), trials("whole"))


@pytest.mark.slow
def test_a_run_that_ended_unreported_is_not_repeated(search) -> None:
    def interrupt(config, folder):
        if folder.name in ("1", "2"):
            write_status(folder, "running")
            raise KeyboardInterrupt
        return peak(config)

    with pytest.raises(KeyboardInterrupt):
        search("hydra.sweeper.trials=4", job=interrupt)
    scores = {"metrics": {"auroc": {"value": 0.75}}}
    Path("search/1/summary.json").write_text(json.dumps({"dataset": "formula", "val": scores}))
    write_status(Path("search/1"), "finished")
    assert search("hydra.sweeper.trials=4")[0] == 0
    assert trials()["value"][1] == 0.75
    assert StandIn.batches == [(0, 1), (1, 1), (2, 1), (3, 1)]


@pytest.mark.slow
def test_more_trials_can_be_added_later(search) -> None:
    assert search("hydra.sweeper.trials=3")[0] == 0
    before = trials()
    assert search("hydra.sweeper.trials=5")[0] == 0
    pd.testing.assert_frame_equal(trials()[:3], before)
    assert len(trials()) == 5
    assert search("hydra.sweeper.trials=2")[0] == 0
    assert len(trials()) == 5


@pytest.mark.slow
def test_a_failed_run_is_a_failed_trial(search) -> None:
    def job(config, folder: Path) -> float | None:
        match folder.name:
            case "1":  # invalid input, in a job of this process
                write_status(folder, "failed", "no room for 256 patches")
                sys.exit(2)
            case "2":
                return math.nan
            case "3":
                return None  # NaN as summary.json has it
            case "4":  # without a recorded end
                status = json.loads((folder / "status.json").read_text())
                (folder / "status.json").write_text(json.dumps(status | {"process": "gone"}))
                raise RuntimeError("a job died")
        return peak(config)

    code, _, err = search("hydra.sweeper.trials=8", "hydra.sweeper.parallel=6", job=job)
    assert code == 0, err
    table = trials()
    assert table["state"].tolist() == ["complete", *["fail"] * 4, *["complete"] * 3]
    assert table["reason"][1:5].tolist() == [
        "no room for 256 patches",
        *["val/auroc is undefined"] * 2,
        "killed",
    ]
    assert StandIn.batches == [(0, 6), (2, 4), (5, 1), (6, 2)]
    assert "trial 1: failed: no room for 256 patches" in err
    assert "launcher: RuntimeError: a job died" in err
    assert err.splitlines()[-1] == "failed: 4 of 8 trials"


def test_the_exit_code_is_1_if_all_trials_failed(search) -> None:
    code, _, err = search("hydra.sweeper.trials=2", job=lambda config, folder: None)
    assert code == 1
    assert err.splitlines()[-1] == "failed: 2 of 2 trials"
    assert json.loads(Path("search/study.json").read_text())["best"] is None


@pytest.mark.slow
def test_a_launcher_that_starts_nothing_fails_no_trial(search) -> None:
    def broken(self, overrides, initial_job_idx):
        raise RuntimeError("no such partition")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StandIn, "launch", broken)
        with pytest.raises(RuntimeError, match="no such partition"):
            search("hydra.sweeper.trials=2")
    assert search("hydra.sweeper.trials=2")[0] == 0
    assert trials()["state"].tolist() == ["complete"] * 2


@pytest.mark.slow
def test_a_preempted_run_ends_the_search_and_is_resumed_later(search) -> None:
    def preempted(config, folder: Path) -> float:
        if folder.name == "2":
            write_status(folder, "preempted")
            sys.exit(143)
        return peak(config)

    arguments = ("hydra.sweeper.trials=4", "hydra.sweeper.parallel=4")
    code, _, err = search(*arguments, job=preempted)
    assert code == 143
    assert err.splitlines()[-1].startswith("stopped in trial 2: ")
    before = optuna_trials()
    status = json.loads(Path("search/2/status.json").read_text())
    Path("search/2/status.json").write_text(json.dumps(status | {"process": "gone"}))
    assert search(*arguments)[0] == 0
    assert StandIn.batches == [(0, 4), (2, 2)]
    assert [trial.params for trial in optuna_trials()] == [trial.params for trial in before]
    assert trials()["state"].tolist() == ["complete"] * 4


@pytest.mark.slow
def test_only_bad_trials_are_pruned(search) -> None:
    """Each job calls the callback as a real run of five epochs does."""

    def job(config, folder: Path) -> float:
        part = {key: value for key, value in config["callbacks"]["pruning"].items()}
        assert part.pop("_target_") == "pcam_lightning.search.pruning.Pruning"
        callback, value = Pruning(**part), peak(config)
        assert not any(callback._is_pruned(epoch, value * epoch / 4) for epoch in range(2))
        for epoch in range(2, 5):
            if callback._is_pruned(epoch, value * epoch / 4):
                break
        return value

    code, _, err = search(
        "hydra.sweeper.trials=14",
        "hydra.sweeper.parallel=2",
        "hydra.sweeper.startup_trials=4",
        "hydra.sweeper.warmup_epochs=2",
        job=job,
    )
    assert code == 0, err
    table = trials()
    pruned = table[table["state"] == "pruned"]
    assert 0 < len(pruned) < 10 and pruned["trial"].min() >= 4
    assert set(pruned["epochs"]) == {3} and set(table["epochs"]) == {3, 5}
    # A trial is compared with the median of the earlier trials, by the formula.
    for trial in table["trial"][4:]:
        before = table[(table["trial"] < trial) & (table["state"] == "complete")]
        worse = peak_at(table["optimizer.lr"][trial]) < before["value"].median()
        assert worse == (table["state"][trial] == "pruned")


def test_without_a_pruner_no_callback_is_added(search) -> None:
    seen = []
    code, _, err = search(
        "hydra.sweeper.trials=1",
        "hydra.sweeper.pruner=null",
        job=lambda config, folder: seen.append(config["callbacks"]) or 0.5,
    )
    assert code == 0, err
    assert "pruning" not in seen[0]


def test_a_loss_is_minimized(search) -> None:
    assert search("hydra.sweeper.metric=val/loss", "hydra.sweeper.trials=1")[0] == 1
    assert json.loads(Path("search/study.json").read_text())["direction"] == "minimize"
    assert "log_loss" in trials()["reason"][0]  # the stand-in writes no log_loss


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["hydra.sweeper.trials=0"], "hydra.sweeper.trials=0: expected greater than 0"),
        (["hydra.sweeper.trails=3"], "trails"),
        (["optimizer.lr=interval(-1,1)"], "optimizer.lr=-1.0: expected greater than 0"),
        (["data.batch_size=choice(8,x)"], "data.batch_size='x': expected"),
        (["optimizer.lrr=interval(0,1)"], "lrr"),
        (["model=choice(cnn,cmm)"], "model/cmm"),
        (["hydra.sweep.subdir='t_${hydra.job.num}'"], "hydra.sweep.subdir=t_${hydra.job.num}: a"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_an_invalid_search_is_one_line_and_leaves_no_folder(
    search, arguments: list[str], expected: str
) -> None:
    code, _, err = search(*arguments)
    assert code == 2
    (line,) = err.splitlines()
    assert line.startswith("error: ") and expected in line
    assert not Path("search").exists() and StandIn.batches == []


@pytest.mark.slow
def test_another_search_in_the_same_folder_is_rejected(search) -> None:
    assert search("hydra.sweeper.trials=1")[0] == 0
    for changed, key in (
        ("optimizer.lr=interval(1e-3,1)", "optimizer.lr=tag(log, interval(1e-4, 1e-1)), now inter"),
        ("trainer.max_epochs=3", "trainer.max_epochs=10, now 3"),
        ("hydra.sweeper.metric=val/f2", "hydra.sweeper.metric=val/auroc, now val/f2"),
    ):
        code, _, err = search("hydra.sweeper.trials=2", changed)
        assert code == 2 and f"begun with {key}" in err
    with FileLock("search/.search.lock"):
        code, _, err = search("hydra.sweeper.trials=2")
    assert code == 2 and "another search is running here" in err
    assert search("hydra.sweeper.trials=2", "data.num_workers=1")[0] == 0


@pytest.mark.slow
def test_a_shared_journal_belongs_to_one_sweep_folder(search) -> None:
    arguments = ("hydra.sweeper.trials=1", "hydra.sweeper.storage=shared/a.journal")
    assert search(*arguments)[0] == 0
    assert Path("shared/a.journal").is_file() and not Path("search/study.journal").exists()
    code, _, err = search(*arguments, "hydra.sweep.dir=elsewhere")
    assert code == 2 and f"begun with hydra.sweep.dir={Path('search').absolute()}" in err


def test_a_damaged_journal_is_one_line(search) -> None:
    Path("search").mkdir()
    Path("search/study.journal").write_text("not a journal\n" * 2)
    code, _, err = search()
    assert code == 2
    (line,) = err.splitlines()
    assert "study.journal" in line


def optuna_trials():
    from pcam_lightning.search.study import open_storage

    storage = open_storage(Path("search/study.journal"))
    return optuna.load_study(study_name="search", storage=storage).trials


def peak_at(lr: float) -> float:
    return peak({"optimizer": {"lr": lr}})
