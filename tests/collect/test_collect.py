"""`collect` as a user calls it, on sweeps that were run and on made-up ones."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from sweep_files import scores, write_run, write_sweep

from pcam_lightning.collect import watch as watching
from pcam_lightning.slurm import queue


@pytest.fixture
def collect(command, tmp_path: Path):
    def run(
        sweep: object, *overrides: str, code: int = 0, name: str = "collected"
    ) -> tuple[dict, str, str]:
        where = tmp_path / name
        found, out, err = command(
            f"runs={sweep}", f"hydra.run.dir={where}", *overrides, name="collect"
        )
        assert found == code, out + err
        assert out.splitlines()[-1] == f"summary: {where / 'summary.json'}"
        return json.loads((where / "summary.json").read_text()), out, err

    return run


def test_a_sweep_that_was_run(command, collect, pcam_root: Path, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    small = ["model=mlp", "model.hidden=[8]", "trainer=cpu", "trainer.max_epochs=1", "logger=csv"]
    code, _, err = command(
        "--multirun", "seed=1,2", f"data.root={pcam_root}", f"hydra.sweep.dir={sweep}",
        *small, "data.batch_size=16", "callbacks.last_checkpoint=null",
    )  # fmt: skip
    assert code == 0, err
    before = {path: path.stat().st_mtime_ns for path in sweep.rglob("*")}
    summary, out, _ = collect(sweep)
    assert {path: path.stat().st_mtime_ns for path in sweep.rglob("*")} == before
    runs = [json.loads((sweep / str(n) / "summary.json").read_text()) for n in range(2)]
    values = [run["val"]["metrics"]["auroc"]["value"] for run in runs]
    table = pd.read_csv(tmp_path / "collected" / "table.csv")
    assert len(table) == 1
    means = table[["val/auroc_mean", "val/auroc_sd"]].to_numpy()
    np.testing.assert_allclose(means, [[float(np.mean(values)), float(np.std(values, ddof=1))]])
    rows = pd.read_parquet(tmp_path / "collected" / "runs.parquet")
    assert list(rows["seed"]) == [1, 2]
    assert list(rows["weights_digest"]) == [run["weights_digest"] for run in runs]
    assert summary["states"] == "2 finished" and summary["datasets"] == ["pcam"]
    assert "dataset: pcam" in out
    assert (summary["champion"] is None) == (np.mean(values) <= 0.5)


def test_failures_are_named_and_make_the_exit_code_1(collect, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(queue, "states", lambda ids: {"12_3": "PENDING"})
    sweep = write_sweep(tmp_path / "sweep", [{}, {}, {}, {}])
    write_run(sweep / "0", ["seed=0"])
    write_run(sweep / "1", ["seed=1"], state="failed", error="CUDA [bold]out of | memory")
    log = sweep / ".submitit" / "12_2" / "12_2_0_log.err"
    log.parent.mkdir(parents=True)
    log.write_text("slurmstepd: <b>oom</b>\n\n")
    summary, out, err = collect(sweep, code=1)
    assert err == "failed: 2 of 4 jobs failed or were lost\n"
    assert f"failed: {sweep / '1'} (seed=1): CUDA [bold]out of | memory" in out
    assert f"lost: {sweep / '2'} (seed=2): slurmstepd: <b>oom</b>; log: {log}" in out
    assert "jobs: 1 finished, 1 failed, 1 lost, 1 queued" in out
    assert [failure["state"] for failure in summary["failures"]] == ["failed", "lost"]
    assert summary["champion"] is None
    text = (tmp_path / "collected" / "table.md").read_text()
    assert "\\[bold\\]out of \\| memory" in text and "\\<b\\>oom" in text


def test_jobs_that_wait_are_no_failure(collect, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(queue, "states", lambda ids: {"12_0": "RUNNING", "12_1": "PENDING"})
    summary, out, _ = collect(write_sweep(tmp_path / "sweep", [{}, {}]))
    assert "jobs: 1 running, 1 queued" in out
    assert summary["reason"] == "no setting has finished all its runs with a validation auroc"


def test_a_grid_has_a_champion_by_validation(collect, tmp_path: Path) -> None:
    for place, (model, val, test) in enumerate([("a|b", 0.8, 0.7), ("[red]c", 0.7, 0.95)]):
        for seed in (1, 2):
            words = [f"model={model}", f"seed={seed}", "data.root='x=y'"]
            folder = tmp_path / "sweep" / f"{place}{seed}"
            write_run(folder, words, scores(auroc=val, f2=0.8), scores(auroc=test))
    summary, out, _ = collect(tmp_path / "sweep")
    best = summary["champion"]
    assert best["values"] == {"model": "a|b"}
    assert best["val"]["auroc"] == {"mean": pytest.approx(0.8), "sd": 0.0}
    assert best["test"]["auroc"]["mean"] == pytest.approx(0.7)
    assert best["folders"] == [str(tmp_path / "sweep" / name) for name in ("01", "02")]
    assert "model=[red]c" in out and "0.800±0.000!" in out
    text = (tmp_path / "collected" / "table.md").read_text()
    assert "| model=a\\|b | 2/2 | 0.8000±0.0000 |" in text
    assert {path.name for path in (tmp_path / "collected" / "plots").iterdir()} == {
        "seeds.png",
        "effects.png",
    }


def test_runs_of_an_edited_config_have_their_own_rows(collect, tmp_path: Path) -> None:
    for seed, rate in ((1, 0.003), (2, 0.003), (3, 0.5)):
        config = {"seed": seed, "optimizer": {"lr": rate}}
        write_run(tmp_path / "sweep" / str(seed), [f"seed={seed}"], config=config)
    summary, _, err = collect(tmp_path / "sweep")
    table = pd.read_csv(tmp_path / "collected" / "table.csv")
    assert table[["optimizer.lr", "finished"]].to_numpy().tolist() == [[0.003, 2], [0.5, 1]]
    assert summary["settings"] == 2
    assert err.startswith("warning: ") and "optimizer.lr" in err and err.count("\n") == 1


def test_several_sweeps_are_taken_as_one(collect, tmp_path: Path) -> None:
    for partition, seeds in (("x", (1, 2)), ("y", (3,))):
        for seed in seeds:
            write_run(tmp_path / partition / str(seed), [f"seed={seed}"])
    summary, _, _ = collect(f"[{tmp_path / 'x'},{tmp_path / 'y'}]")
    assert (summary["jobs"], summary["settings"]) == (3, 1)


def test_benchmarks_are_one_table_with_where_they_ran(collect, tmp_path: Path) -> None:
    for number, (partition, median) in enumerate((("cpu", 100.0), ("gpu", 900.0))):
        folder = write_run(tmp_path / "sweep" / str(number), ["mode=loader"], state="finished")
        rows = [{"contender": "this [b]", "median": median, "low": 1, "high": 2, "of_first": 1}]
        rows[0] |= {"model": "cnn", "batch_size": 64, "precision": "32-true", "device": "cpu"}
        (folder / "summary.json").write_text(json.dumps({"mode": "loader", "rows": rows}))
        manifest = json.loads((folder / "manifest.json").read_text())
        slurm = {"job_id": 70 + number, "array_job_id": 70, "array_task_id": number}
        manifest["slurm"] = slurm | {"partition": partition, "node": f"n{number}"}
        (folder / "manifest.json").write_text(json.dumps(manifest))
    _, out, _ = collect(tmp_path / "sweep")
    table = pd.read_csv(tmp_path / "collected" / "table.csv")
    shown = table[["partition", "node", "job_id", "contender", "median", "low", "high"]]
    assert shown.to_numpy().tolist() == [
        ["cpu", "n0", "70_0", "this [b]", 100.0, 1.0, 2.0],
        ["gpu", "n1", "70_1", "this [b]", 900.0, 1.0, 2.0],
    ]
    assert table["batch_size"].tolist() == [64, 64]
    assert "this [b]" in out and "70_1" in out and "32-true" in out


def test_watching_to_the_end_and_leaving_early(collect, tmp_path: Path, monkeypatch) -> None:
    write_run(tmp_path / "sweep" / "0", ["seed=0"], state="failed", error="boom")
    running = write_run(tmp_path / "sweep" / "1", ["seed=1"], state="running", started="2026-02-01")

    def finish(seconds: float) -> None:
        assert seconds == 0.5
        path = running / "status.json"
        path.write_text(path.read_text().replace("running", "preempted"))

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(watching, "time", SimpleNamespace(sleep=interrupt))
    summary, out, err = collect(tmp_path / "sweep", "watch=true", name="left")
    assert summary["states"] == "1 failed, 1 running" and err == ""
    monkeypatch.setattr(watching, "time", SimpleNamespace(sleep=finish))
    _, out, _ = collect(tmp_path / "sweep", "watch=true", "every_seconds=0.5", code=1)
    assert "#1  seed=1  running" in out and "#1  seed=1  preempted" in out


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ([], "runs: missing, expected runs=VALUE"),
        (["sweep=empty"], "sweep=: this key is now called runs"),
        (["runs=[]"], "runs=[]: no runs found, expected the folder of a sweep"),
        (["runs=nowhere"], "nowhere is no folder"),
        (["runs=empty"], "runs=empty: no runs found"),
        (["runs=empty", "metric=auc"], "metric='auc': expected one of auroc, average_precision"),
        (["runs=empty", "every_seconds=0"], "every_seconds=0: expected greater than 0"),
        (["runs=bad"], "jobs.0.folder='../..': expected a path inside bad"),
    ],
)
def test_what_cannot_be_collected(command, tmp_path: Path, overrides, said: str) -> None:
    (tmp_path / "empty").mkdir()
    write_sweep(tmp_path / "bad", [{"folder": "../.."}])
    code, _, err = command(*overrides, name="collect")
    assert code == 2 and said in err and err.count("\n") == 1


def test_the_room_needs_neither_torch_nor_hydra() -> None:
    program = (
        "import sys; import pcam_lightning.collect.report, pcam_lightning.collect.watch\n"
        "print({'torch', 'lightning', 'hydra', 'omegaconf'} & set(sys.modules))"
    )
    found = subprocess.check_output([sys.executable, "-c", program], text=True)
    assert found.strip() == "set()"
