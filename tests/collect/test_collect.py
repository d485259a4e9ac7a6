"""Tests of the command `collect`, on real and on synthetic runs."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from sweep_files import scores, write_run, write_sweep

from pcam_lightning.collect import watch as watching
from pcam_lightning.runs import Run
from pcam_lightning.slurm import jobs, queue
from pcam_lightning.slurm.ends import JobEnd
from pcam_lightning.slurm.queue import QueuedJob


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


def test_a_sweep_of_real_runs(collect, trained_run: Run, tmp_path: Path) -> None:
    sweep, aurocs = tmp_path / "sweep", [0.7, 0.9]
    for seed, auroc in enumerate(aurocs):
        folder = sweep / str(seed)
        shutil.copytree(trained_run.path, folder)
        change(folder / ".hydra" / "overrides.yaml", lambda found, n=seed: [*found, f"seed={n}"])
        change(folder / "manifest.json", lambda found, n=seed: found | {"seed": n})
        change(folder / "summary.json", lambda found, a=auroc: set_auroc(found, a))
    before = {path: path.stat().st_mtime_ns for path in sweep.rglob("*")}
    summary, out, _ = collect(sweep)
    assert {path: path.stat().st_mtime_ns for path in sweep.rglob("*")} == before
    table = pd.read_csv(tmp_path / "collected" / "table.csv")
    assert len(table) == 1
    means = table[["val/auroc_mean", "val/auroc_sd"]].to_numpy()
    np.testing.assert_allclose(means, [[float(np.mean(aurocs)), float(np.std(aurocs, ddof=1))]])
    rows = pd.read_parquet(tmp_path / "collected" / "runs.parquet")
    assert list(rows["seed"]) == [0, 1]
    assert list(rows["weights_digest"]) == [trained_run.summary["weights_digest"]] * 2
    assert summary["states"] == "2 finished" and summary["datasets"] == ["pcam"]
    assert "dataset: pcam" in out
    assert summary["champion"]["val"]["auroc"]["mean"] == pytest.approx(0.8)


def change(path: Path, function: Callable[[Any], Any]) -> None:
    """Replace the content of a JSON or YAML file."""
    path.write_text(json.dumps(function(yaml.safe_load(path.read_text()))))


def set_auroc(summary: dict[str, Any], value: float) -> dict[str, Any]:
    summary["val"]["metrics"]["auroc"]["value"] = value
    return summary


def test_failures_are_named_and_exit_with_1(collect, tmp_path: Path, monkeypatch) -> None:
    waiting = {"12_3": QueuedJob("PENDING", "Priority", "2026-11-29T12:00:00")}
    monkeypatch.setattr(queue, "queued_jobs", lambda ids: waiting)
    monkeypatch.setattr(jobs, "job_ends", lambda ids: {"12_2": JobEnd("NODE_FAIL", node="thin1")})
    sweep = write_sweep(tmp_path / "sweep", [{}, {}, {}, {}])
    write_run(sweep / "0", ["seed=0"])
    write_run(sweep / "1", ["seed=1"], state="failed", error="CUDA [bold]out of | memory")
    log = sweep / ".submitit" / "12_2" / "12_2_0_log.err"
    log.parent.mkdir(parents=True)
    log.write_text("<b>epoch 1</b>\n\n")
    summary, out, err = collect(sweep, code=1)
    assert err.startswith("failed: 2 of 4 jobs") and err.count("\n") == 1
    assert f"failed: {sweep / '1'} (seed=1): CUDA [bold]out of | memory" in out
    (line,) = (each for each in out.splitlines() if each.startswith("node_failure: "))
    assert all(text in line for text in (str(sweep / "2"), "seed=2", "thin1", str(log)))
    (line,) = (each for each in out.splitlines() if each.startswith("queued: "))
    assert all(text in line for text in ("12_3", "Priority", "2026-11-29T12:00:00", "seed=3"))
    assert "jobs: 1 finished, 1 failed, 1 node_failure, 1 queued" in out
    assert [failure["state"] for failure in summary["failures"]] == ["failed", "node_failure"]
    assert summary["champion"] is None
    text = (tmp_path / "collected" / "table.md").read_text()
    assert "\\[bold\\]out of \\| memory" in text


def test_queued_jobs_are_no_failure(collect, tmp_path: Path, monkeypatch) -> None:
    queued = {"12_0": QueuedJob("RUNNING", node="thin1"), "12_1": QueuedJob("PENDING")}
    monkeypatch.setattr(queue, "queued_jobs", lambda ids: queued)
    summary, out, _ = collect(write_sweep(tmp_path / "sweep", [{}, {}]))
    assert "jobs: 1 running, 1 queued" in out
    assert summary["champion"] is None and "auroc" in summary["reason"]


def test_the_best_configuration_of_a_grid(collect, tmp_path: Path) -> None:
    for place, (model, val, test) in enumerate([("a|b", 0.8, 0.7), ("[red]c", 0.7, 0.95)]):
        for seed in (1, 2):
            overrides = [f"model={model}", f"seed={seed}", "data.root='x=y'"]
            folder = tmp_path / "sweep" / f"{place}{seed}"
            write_run(folder, overrides, scores(auroc=val, f2=0.8), scores(auroc=test))
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


def test_two_sweeps_with_an_edited_config(collect, tmp_path: Path) -> None:
    for sweep, seed, rate in (("x", 1, 0.003), ("x", 2, 0.003), ("y", 3, 0.5)):
        config = {"seed": seed, "optimizer": {"lr": rate}}
        write_run(tmp_path / sweep / str(seed), [f"seed={seed}"], config=config)
    summary, _, err = collect(f"[{tmp_path / 'x'},{tmp_path / 'y'}]")
    table = pd.read_csv(tmp_path / "collected" / "table.csv")
    assert table[["optimizer.lr", "finished"]].to_numpy().tolist() == [[0.003, 2], [0.5, 1]]
    assert (summary["jobs"], summary["settings"]) == (3, 2)
    assert err.startswith("warning: ") and "optimizer.lr" in err and err.count("\n") == 1


def test_benchmarks_and_their_machines_in_one_table(collect, tmp_path: Path) -> None:
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


def test_watching_until_ctrl_c_and_to_the_end(collect, tmp_path: Path, monkeypatch) -> None:
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


# Each command line exits with 2, and one line that names the key or folder at fault.
@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        ([], "runs: missing"),
        (["sweep=empty"], "sweep="),
        (["runs=[]"], "runs=[]"),
        (["runs=nowhere"], "nowhere"),
        (["runs=empty"], "runs=empty"),
        (["runs=empty", "metric=auc"], "metric='auc': expected one of auroc, average_precision"),
        (["runs=empty", "every_seconds=0"], "every_seconds=0"),
        (["runs=bad"], "jobs.0.folder='../..'"),
    ],
)
def test_invalid_arguments(command, tmp_path: Path, overrides, named: str) -> None:
    (tmp_path / "empty").mkdir()
    write_sweep(tmp_path / "bad", [{"folder": "../.."}])
    code, _, err = command(*overrides, name="collect")
    assert code == 2 and named in err and err.count("\n") == 1


def test_report_and_watch_import_neither_torch_nor_hydra() -> None:
    program = (
        "import sys; import pcam_lightning.collect.report, pcam_lightning.collect.watch\n"
        "print({'torch', 'lightning', 'hydra', 'omegaconf'} & set(sys.modules))"
    )
    found = subprocess.check_output([sys.executable, "-c", program], text=True)
    assert found.strip() == "set()"
