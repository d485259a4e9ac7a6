"""Every kind of damage to a file of a run folder is one line that names the file.

The readers, `collect`, `compare` and `evaluate` get a folder with one damaged file; other runs are
still collected.
"""

import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from sweep_files import scores, write_run

from pcam_lightning.collect.report import write_collection
from pcam_lightning.compare.report import compare
from pcam_lightning.errors import InputError
from pcam_lightning.evaluate.target import resolve_target
from pcam_lightning.metrics.predictions import read_predictions, write_predictions
from pcam_lightning.runs import Run
from pcam_lightning.runs.threshold import Threshold, read_threshold, write_threshold
from pcam_lightning.slurm.jobs import job_states

READERS: dict[str, Callable[[Run], Any]] = {
    "manifest.json": lambda run: run.manifest,
    "status.json": lambda run: run.status,
    "summary.json": lambda run: run.summary,
    "threshold.json": lambda run: read_threshold(run.path),
    ".hydra/config.yaml": lambda run: run.config,
    ".hydra/overrides.yaml": lambda run: run.overrides,
    "metrics.csv": lambda run: run.metrics,
    "gradients.parquet": lambda run: run.gradients,
    "predictions/val.parquet": lambda run: read_predictions(run.path / "predictions/val.parquet"),
}
JSON = [name for name in READERS if name.endswith(".json")]
YAML = [name for name in READERS if name.endswith(".yaml")]


def parquet(table: pa.Table) -> bytes:
    stream = io.BytesIO()
    pq.write_table(table, stream)
    return stream.getvalue()


def zeros(rows: int, *names: str) -> bytes:
    """Return a parquet file of a few kilobytes with very many rows."""
    array = pa.RunEndEncodedArray.from_arrays([rows], pa.array([0]))
    table = pa.table({name: pc.call_function("run_end_decode", [array]) for name in names})
    return parquet(table)


KINDS: dict[str, Callable[[Path], Any]] = {
    "empty": lambda path: path.write_bytes(b""),
    "no text": lambda path: path.write_bytes(b"\xff\xfe\x00\x80["),
    "folder": lambda path: path.mkdir(),
    "pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "nowhere": lambda path: path.symlink_to("nowhere"),
    "itself": lambda path: path.symlink_to(path.name),
    "too large": lambda path: (path.touch(), os.truncate(path, 1 << 40)),
}
TEXTS = {
    "*.json": {
        "nested": "[" * 100_000,
        "nested objects": '{"a":' * 5000 + "1" + "}" * 5000,
        "nested a little": '{"a":' * 70 + "1" + "}" * 70,
        "huge integer": '{"pid": 1' + "0" * 5000 + "}",
        "large integer": '{"seed": 1' + "0" * 400 + "}",
        "huge number": '{"seconds": 1e999}',
        "NaN": '{"seconds": NaN}',
        "infinity": '{"val": {"threshold": -Infinity}}',
        "key twice": '{"state": "finished", "state": "running"}',
        "list": "[1]",
        "cut short": '{"state": "fin',
    },
    "*.yaml": {
        "nested": "[" * 3000,
        "nested mappings": "{a: " * 500 + "1" + "}" * 500,
        "bomb": "a: &a [x, x]\n" + "b: &b [*a, *a, *a]\n" * 20,
        "code": "!!python/object/apply:os.getcwd []",
        "odd tag": "a: !!timestamp x",
        "key twice": "a: 1\na: 2\n",
        "number": "7",
        "huge integer": f"a: 0x{'f' * 100}\n",
        "list of numbers": "[1, 2]\n",
    },
    "metrics.csv": {
        "text": "epoch,step\n0,a\n",
        "huge integer": f"epoch,step\n0,1{'0' * 400}x\n",
        "quote": 'epoch,step\n"0,1\n',
        "columns": ",".join(f"c{i}" for i in range(20_000)) + "\n",
    },
    "manifest.json": {
        "dataset is text": '{"dataset": "demo"}',
        "root is a number": '{"dataset": {"name": "pcam", "root": 5}}',
        "root has a null": '{"dataset": {"root": "/a\\u0000b"}}',
        "files is a list": '{"dataset": {"files": ["a"]}}',
        "git is a list": '{"git": []}',
        "commit is a number": '{"git": {"commit": 5}}',
        "config is text": '{"config": "x"}',
        "model is text": '{"config": {"model": "x", "data": {}}}',
        "run_dir is a list": '{"config": {"run_dir": []}}',
        "sources is a list": '{"sources": ["a"]}',
        "hardware is text": '{"hardware": "x"}',
        "seed is text": '{"seed": "a"}',
    },
    "status.json": {
        "other state": '{"state": "exploded"}',
        "state is a list": '{"state": ["finished"]}',
        "error is a list": '{"state": "failed", "error": [1]}',
        "text is a number": '{"state": "failed", "error": {"text": 5}}',
        "negative process": '{"state": "running", "pid": -1}',
        "attempt": '{"state": "failed", "attempt": "../../x"}',
    },
    "summary.json": {
        "val is a list": '{"val": []}',
        "metrics is a list": '{"val": {"metrics": [1]}}',
        "value is text": '{"val": {"metrics": {"auroc": {"value": "1"}}}}',
        "better than perfect": '{"val": {"metrics": {"auroc": {"value": 55}}}}',
        "negative": '{"test": {"metrics": {"auroc": {"value": -1}}}}',
        "threshold is text": '{"val": {"threshold": "x"}}',
        "digest is a list": '{"weights_digest": []}',
        "rows are numbers": '{"rows": [1]}',
        "seconds is text": '{"seconds": "x"}',
        "constants are text": '{"val": {"baselines": {"majority": "x"}}}',
    },
    "threshold.json": {"missing key": '{"value": 0.5}', "text": '{"value": "0.5"}'},
}
TABLES: dict[str, dict[str, bytes]] = {
    "*.parquet": {
        "text": b"PAR1 and no more PAR1",
        "many rows": zeros(30_000_000, "step"),
        "one name twice": parquet(pa.Table.from_arrays([pa.array([1])] * 2, names=["a", "a"])),
        "times": parquet(pa.table({"step": pa.array([1]), "a": pa.array([1], pa.timestamp("s"))})),
        "structures": parquet(pa.table({"step": [1], "a": [{"b": 1}]})),
        "pandas metadata": parquet(
            pa.table({"step": ["a"], "row": ["b"]}).replace_schema_metadata({"pandas": "[" * 5000})
        ),
    },
    "gradients.parquet": {
        "step is text": parquet(pa.table({"step": ["a"]})),
        "step is a fraction": parquet(pa.table({"step": [0.5]})),
    },
    "predictions/val.parquet": {
        "no columns": parquet(pa.table({"step": [1]})),
        "row wraps": parquet(
            pa.table(
                {"row": pa.array([2**64 - 1], pa.uint64()), "label": [1]}
                | {"logit": [0.0], "probability": [0.5]}
            )
        ),
        "slide is a number": parquet(
            pa.table({"row": [1], "label": [1], "logit": [0.0], "probability": [0.5], "slide": [3]})
        ),
        "lists": parquet(pa.table({"row": [[1]], "label": [1], "logit": [0.0]})),
    },
}


def damages() -> list[Any]:
    """Return every file with every kind of damage: its content, or a function that makes it."""
    found = []
    for name in READERS:
        for kind, make in KINDS.items():
            found.append(pytest.param(name, make, id=f"{name}: {kind}"))
        for pattern, contents in (*TEXTS.items(), *TABLES.items()):
            if pattern == name or (pattern[0] == "*" and name.endswith(pattern[1:])):
                found += [
                    pytest.param(name, content, id=f"{name}: {kind}")
                    for kind, content in contents.items()
                ]
    return found


def put(path: Path, damage: Any) -> None:
    path.unlink()
    if callable(damage):
        damage(path)
    else:
        path.write_bytes(damage if isinstance(damage, bytes) else damage.encode())


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two undamaged runs."""
    top = tmp_path_factory.mktemp("runs")
    for place, name in enumerate(("good", "other")):
        split = scores() | {"threshold": 0.5}
        folder = write_run(top / name, [f"seed={place}"], split, split)
        table = {"epoch": [0, 1], "step": [9, 19], "val/auroc": [0.7, 0.8], "val/loss": [0.5, 0.4]}
        pd.DataFrame(table).to_csv(folder / "metrics.csv", index=False)
        steps = {"step": [0, 1], "epoch": [0, 0], "loss": [0.7, 0.6 + place], "norm": [1.0, 2.0]}
        pd.DataFrame(steps).to_parquet(folder / "gradients.parquet")
        logit = np.linspace(-1, 1 + place, 20)
        for split_name in ("val", "test"):
            path = folder / "predictions" / f"{split_name}.parquet"
            write_predictions(path, np.arange(20), np.arange(20) % 2, logit)
        manifest = json.loads((folder / "manifest.json").read_text())
        model = {"_target_": "pcam_lightning.models.MLP", "hidden": [4]}
        manifest["config"] = {"model": model, "data": {"batch_size": 4}}
        (folder / "manifest.json").write_text(json.dumps(manifest))
        write_threshold(
            folder,
            Threshold(
                value=0.5, rule="0.5", temperature=None, tta="none", checkpoint="best.ckpt",
                weights_digest=None, dataset={"name": "demo"}, validation={},
            ),
        )  # fmt: skip
    return top


@pytest.fixture
def damaged(runs: Path, tmp_path: Path) -> Callable[[str, Any], Path]:
    """Copies of the two runs, the second with a damaged file."""

    def make(name: str, damage: Any) -> Path:
        shutil.copytree(runs, tmp_path / "runs")
        put(tmp_path / "runs" / "other" / name, damage)
        return tmp_path / "runs"

    return make


def assert_one_line(error: InputError, path: Path) -> None:
    text = str(error)
    assert str(path) in text and len(text) < 1000
    assert text.isprintable()


@pytest.mark.parametrize(("name", "damage"), damages())
def test_one_line_names_the_file_and_the_other_run_is_collected(
    damaged, name: str, damage: Any
) -> None:
    top = damaged(name, damage)
    path = top / "other" / name
    run = Run(top / "other")
    with pytest.raises(InputError) as caught:
        READERS[name](run)
    assert_one_line(caught.value, path)

    states = {job.folder.name: job for job in job_states(top)}
    good, other = states["good"], states["other"]
    assert good.state == "finished"
    if name in ("manifest.json", "status.json", "summary.json", ".hydra/overrides.yaml"):
        assert other.state == "damaged" and str(path) in (other.error or "")
    else:
        assert other.state == "finished"


COMPARED = "manifest.json", "gradients.parquet"


@pytest.mark.parametrize(
    ("name", "damage"), [each for each in damages() if each.values[0] in COMPARED]
)
def test_a_comparison_ends_in_one_line(damaged, name: str, damage: Any) -> None:
    top = damaged(name, damage)
    with pytest.raises(InputError) as caught:
        compare([Run(top / "good"), Run(top / "other")])
    assert_one_line(caught.value, top / "other" / name)


@pytest.mark.parametrize(
    ("name", "damage"), [each for each in damages() if each.values[0] == "manifest.json"]
)
def test_an_evaluation_ends_in_one_line(damaged, composed, name: str, damage: Any) -> None:
    top = damaged(name, damage)
    (top / "other" / "checkpoints").mkdir()
    (top / "other" / "checkpoints" / "best.ckpt").touch()
    config = composed([f"run={top / 'other'}"], "evaluate")
    with pytest.raises(InputError) as caught:
        resolve_target(config, [])
    assert_one_line(caught.value, top / "other" / name)


def test_undamaged_runs_are_compared(runs: Path) -> None:
    report = compare([Run(runs / "good"), Run(runs / "other")])
    assert report["pairs"][0]["parted"]["loss"]["step"] == 1
    assert report["pairs"][0]["metrics"]["val"]["identical"] is False


def test_a_collection_lists_damaged_runs(damaged, tmp_path: Path, capsys, monkeypatch) -> None:
    top = damaged("summary.json", "[" * 100_000)
    (tmp_path / "collection").mkdir()
    monkeypatch.setenv("COLUMNS", "1000")
    summary = write_collection(tmp_path / "collection", job_states(top), "auroc")
    assert summary["states"] == "1 finished, 1 damaged"
    (failure,) = summary["failures"]
    assert failure["state"] == "damaged" and "summary.json" in failure["error"]
    assert "summary.json" in capsys.readouterr().out
    table = pd.read_csv(tmp_path / "collection" / "table.csv")
    assert table["val/auroc_mean"].tolist() == [0.9] and table["damaged"].tolist() == [1]


def test_a_half_written_line_is_no_damage(runs: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(runs / "good", tmp_path / "run")
    with (folder / "metrics.csv").open("a") as file:
        file.write("2,29,0.")
    assert Run(folder).metrics["step"].tolist() == [9, 19]
