import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from pcam_lightning.runs import Run, find_runs
from pcam_lightning.runs.run import MissingRunFileError
from pcam_lightning.runs.status import RunFileError, recording

READERS = {
    "manifest.json": lambda run: run.manifest,
    "status.json": lambda run: run.status,
    "summary.json": lambda run: run.summary,
    ".hydra/config.yaml": lambda run: run.config,
    ".hydra/overrides.yaml": lambda run: run.overrides,
    "metrics.csv": lambda run: run.metrics,
    "gradients.parquet": lambda run: run.gradients,
    "predictions/val.parquet": lambda run: run.predictions("val"),
    "checkpoints/best.ckpt": lambda run: run.best_checkpoint,
    "checkpoints/last.ckpt": lambda run: run.last_checkpoint,
}


def _run_folder(path: Path, started: str, **status: object) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    (path / "manifest.json").write_text(json.dumps({"started": started}))
    (path / "status.json").write_text(json.dumps({"state": "finished", **status}))
    return path


def test_a_complete_run_reads_back(tmp_path):
    for name in (".hydra", "checkpoints", "predictions"):
        (tmp_path / name).mkdir()
    (tmp_path / "manifest.json").write_text('{"seed": 3}')
    (tmp_path / "status.json").write_text('{"state": "finished"}')
    (tmp_path / "summary.json").write_text('{"val": {"auroc": 0.9}}')
    (tmp_path / ".hydra" / "config.yaml").write_text("lr: 1.0e-3\nroot: ${oc.env:PCAM_ROOT}\n")
    (tmp_path / ".hydra" / "overrides.yaml").write_text("- seed=3\n- model=cnn\n")
    (tmp_path / "metrics.csv").write_text("epoch,step,val/auroc\n0,9,\n0,9,0.75\n")
    predictions = pd.DataFrame({"row": [0, 1], "label": [0, 1], "logit": [-1.5, 2.0]})
    predictions.to_parquet(tmp_path / "predictions" / "test.parquet")
    pd.DataFrame({"step": [0, 1], "norm": [1.0, 2.0]}).to_parquet(tmp_path / "gradients.parquet")
    (tmp_path / "checkpoints" / "best.ckpt").touch()
    (tmp_path / "checkpoints" / "last.ckpt").touch()

    run = Run(str(tmp_path))
    assert (run.manifest, run.status) == ({"seed": 3}, {"state": "finished"})
    assert run.summary == {"val": {"auroc": 0.9}}
    assert run.config == {"lr": 0.001, "root": "${oc.env:PCAM_ROOT}"}
    assert run.overrides == ["seed=3", "model=cnn"]
    assert run.metrics["val/auroc"].isna().tolist() == [True, False]
    assert run.gradients["norm"].tolist() == [1.0, 2.0]
    pd.testing.assert_frame_equal(run.predictions("test"), predictions)
    assert run.best_checkpoint == tmp_path / "checkpoints" / "best.ckpt"
    assert run.last_checkpoint == tmp_path / "checkpoints" / "last.ckpt"
    assert run.state == "finished"


@pytest.mark.parametrize("name", READERS)
def test_a_missing_file_is_one_clear_line(tmp_path, name):
    kept = "manifest.json" if name == "status.json" else "status.json"
    (tmp_path / kept).write_text('{"state": "failed"}')
    with pytest.raises(MissingRunFileError) as caught:
        READERS[name](Run(tmp_path))
    assert isinstance(caught.value, ValueError) and isinstance(caught.value, FileNotFoundError)
    text = str(caught.value)
    assert str(tmp_path / name) in text and "written" in text and "\n" not in text
    assert ("unknown" if name == "status.json" else "failed") in text


@pytest.mark.parametrize("name", [name for name in READERS if not name.endswith(".ckpt")])
@pytest.mark.parametrize("content", [b"", b"\xff\x00 ["])
def test_a_damaged_file_is_one_clear_line(tmp_path, name, content):
    (tmp_path / "manifest.json").write_text("{}")
    (tmp_path / "status.json").write_text('{"state": "finished"}')
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RunFileError) as caught:
        READERS[name](Run(tmp_path))
    assert str(tmp_path / name) in str(caught.value) and "\n" not in str(caught.value)


def test_a_config_cannot_run_code(tmp_path):
    (tmp_path / "manifest.json").write_text("{}")
    (tmp_path / ".hydra").mkdir()
    config = "x: !!python/object/apply:os.mkdir ['" + str(tmp_path / "broken-in") + "']\n"
    (tmp_path / ".hydra" / "config.yaml").write_text(config)
    with pytest.raises(RunFileError, match=r"config\.yaml is not valid YAML"):
        _ = Run(tmp_path).config
    assert not (tmp_path / "broken-in").exists()


def test_a_folder_that_is_no_run_is_rejected(tmp_path):
    (tmp_path / "summary.json").write_text("{}")
    for path in (tmp_path, tmp_path / "nowhere", tmp_path / "summary.json"):
        with pytest.raises(RunFileError, match="is no run folder"):
            Run(path)


def test_a_killed_run_differs_from_a_running_one(tmp_path):
    code = (
        "import sys, time\n"
        "from pcam_lightning.runs.status import recording\n"
        "with recording(sys.argv[1], {}):\n"
        "    print('up', flush=True); time.sleep(60)\n"
    )
    folder = tmp_path / "run"
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        assert child.stdout is not None
        child.stdout.readline()
        assert Run(folder).state == "running"
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert Run(folder).status["state"] == "running"
    assert Run(folder).state == "killed"


def test_the_status_from_another_machine_is_trusted(tmp_path):
    status = {"state": "running", "host": "node-elsewhere", "pid": 1, "process": "x"}
    assert Run(_run_folder(tmp_path / "run", "", **status)).state == "running"


def test_runs_are_found_at_any_depth_in_the_order_they_started(tmp_path):
    late = _run_folder(tmp_path / "a" / "late", "2024-05-01T10:00:00.000+00:00")
    # Later on the clock, earlier in time.
    early = _run_folder(tmp_path / "sweep" / "x" / "0", "2024-05-01T11:30:00.000+02:00")
    sweep = _run_folder(tmp_path / "sweep", "2024-05-01T09:00:00.000+00:00")
    (tmp_path / "notes" / "status").mkdir(parents=True)
    assert [run.path for run in find_runs(tmp_path)] == [sweep, early, late]
    assert find_runs(tmp_path / "notes") == []
    with pytest.raises(RunFileError, match="no folder"):
        find_runs(tmp_path / "nowhere")


def test_a_continued_run_is_listed_once_by_its_first_start(tmp_path):
    def start(name: str) -> None:
        manifest = {"started": f"2024-05-01T10:00:{next(seconds):02d}.000+00:00"}
        with recording(tmp_path / name, manifest, resume=True):
            pass

    seconds = iter(range(60))
    for name in ("first", "second", "first"):
        start(name)
    assert [run.path.name for run in find_runs(tmp_path)] == ["first", "second"]


def test_a_damaged_run_is_listed(tmp_path):
    good = _run_folder(tmp_path / "good", "2024-05-01T10:00:00.000+00:00")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "status.json").write_text("{")
    assert [run.path for run in find_runs(tmp_path)] == [good, tmp_path / "bad"]
