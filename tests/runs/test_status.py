import json
import os
import stat
import subprocess
import sys
import threading
import time
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from pcam_lightning.errors import InputError
from pcam_lightning.files import write_json
from pcam_lightning.runs import status as record
from pcam_lightning.runs.status import (
    RunFileError,
    RunFolderBusyError,
    RunFolderFinishedError,
    read_json,
    recording,
)

HOLD = """
import sys, time
from pathlib import Path
from pcam_lightning.runs.status import RunFolderBusyError, recording
folder, go, stop = map(Path, sys.argv[1:])
while not go.exists():
    time.sleep(0.001)
try:
    with recording(folder, {"seed": 7}):
        print("recording", flush=True)
        while not stop.exists():
            time.sleep(0.01)
except RunFolderBusyError as error:
    print(f"busy: {error}", flush=True)
"""


def _status(folder: Path) -> dict:
    return json.loads((folder / "status.json").read_text())


def _holder(folder: Path, go: Path, stop: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), str(go), str(stop)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(record.__file__).parents[2])},
    )


def _first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def test_json_holds_plain_numbers_in_the_order_given(tmp_path):
    value = {
        "zebra": np.float32(0.5),
        "ant": np.int64(3),
        "flag": np.bool_(True),
        "nan": float("nan"),
        "numpy nan": np.float64("nan"),
        "inf": -np.inf,
        "array": np.array([[1.5, np.nan], [np.inf, 2.0]]),
        "path": Path("a/b"),
        "tuple": (1, None),
        "set": {3, 1, 2},
        "when": datetime(2024, 1, 2, 3, 4, 5),
        7: "Grüße",
    }
    write_json(tmp_path / "x.json", value)
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    back = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert back == {
        "zebra": 0.5,
        "ant": 3,
        "flag": True,
        "nan": None,
        "numpy nan": None,
        "inf": None,
        "array": [[1.5, None], [None, 2.0]],
        "path": "a/b",
        "tuple": [1, None],
        "set": [1, 2, 3],
        "when": "2024-01-02T03:04:05",
        "7": "Grüße",
    }
    assert list(back)[:3] == ["zebra", "ant", "flag"]
    assert text.endswith("}\n") and "Grüße" in text


def test_json_keeps_a_file_name_that_is_not_utf8(tmp_path):
    name = os.fsdecode(b"scan-\xff.h5")
    write_json(tmp_path / "x.json", {"file": Path(name)})
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8")) == {"file": name}


def test_json_rejects_other_types(tmp_path):
    (tmp_path / "x.json").write_text("old")
    with pytest.raises(TypeError, match="cannot write a object as JSON"):
        write_json(tmp_path / "x.json", {"model": object()})
    assert (tmp_path / "x.json").read_text() == "old"


def test_files_are_as_readable_to_others_as_any_other_file(tmp_path):
    (tmp_path / "plain").write_text("")
    write_json(tmp_path / "x.json", {})
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert len(modes) == 1


@pytest.mark.parametrize("text", ["", "{", "[1]", "\xff"])
def test_reading_damaged_json_names_the_file(tmp_path, text):
    path = tmp_path / "summary.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(RunFileError, match=r"summary\.json") as caught:
        read_json(path)
    assert "\n" not in str(caught.value)


def test_a_run_that_ends_well_is_finished(tmp_path):
    folder = tmp_path / "new" / "run"
    with recording(folder, {"seed": 7, "score": np.float32(0.25)}) as run:
        during = _status(folder)
        time.sleep(0.02)
        run.update(epoch=3)
        assert _status(folder)["epoch"] == 3
    after = _status(folder)
    assert during["state"] == "running" and during["finished"] is None
    assert during["pid"] == os.getpid()
    assert after["state"] == "finished" and after["error"] is None and after["epoch"] == 3
    started, finished = (datetime.fromisoformat(after[key]) for key in ("started", "finished"))
    assert started.tzinfo is not None
    assert 0.02 <= after["seconds"] <= (finished - started).total_seconds() + 0.01
    assert json.loads((folder / "manifest.json").read_text()) == {"seed": 7, "score": 0.25}
    assert "numpy==" + np.__version__ in (folder / "environment.txt").read_text().splitlines()


def test_update_does_not_let_a_caller_change_the_state(tmp_path):
    with recording(tmp_path, {}) as run, pytest.raises(TypeError, match="pid, state"):
        run.update(state="finished", pid=1, epoch=2)
    assert "epoch" not in _status(tmp_path)


def test_a_bug_is_recorded_with_its_traceback(tmp_path):
    with pytest.raises(ZeroDivisionError), recording(tmp_path, {}):
        raise ZeroDivisionError("division by zero")
    status = _status(tmp_path)
    assert status["state"] == "failed"
    assert status["error"]["type"] == "ZeroDivisionError"
    assert status["error"]["text"] == "division by zero"
    assert "test_status.py" in status["error"]["traceback"]


def test_bad_input_is_one_line_without_a_traceback(tmp_path):
    with pytest.raises(InputError), recording(tmp_path, {}):
        raise InputError("data.root: no such folder:\n  /nowhere")
    assert _status(tmp_path)["error"] == {
        "type": "InputError",
        "text": "data.root: no such folder: /nowhere",
        "traceback": None,
    }


@pytest.mark.parametrize(
    ("end", "state", "text"),
    [
        (KeyboardInterrupt(), "failed", "interrupted (Ctrl-C or SIGINT)"),
        (SystemExit(3), "failed", "exit status 3"),
        (SystemExit("no GPU"), "failed", "exit: no GPU"),
        (SystemExit(0), "finished", None),
        (SystemExit(), "finished", None),
    ],
)
def test_early_exits(tmp_path, end, state, text):
    with pytest.raises(type(end)), recording(tmp_path, {}):
        raise end
    status = _status(tmp_path)
    assert status["state"] == state
    assert (status["error"] or {}).get("text") == text
    assert (status["error"] or {}).get("traceback") is None


def test_a_preempted_run_can_continue(tmp_path):
    with pytest.raises(SystemExit), recording(tmp_path, {"start": 1}) as run:
        run.preempt("SIGUSR1 from Slurm")
        with pytest.raises(RunFolderBusyError), recording(tmp_path, {"start": 2}):
            pass
        raise SystemExit(143)
    status = _status(tmp_path)
    assert (status["state"], status["reason"]) == ("preempted", "SIGUSR1 from Slurm")
    with recording(tmp_path, {"start": 2}):
        pass
    assert _status(tmp_path)["state"] == "finished"
    assert json.loads((tmp_path / "manifest.json").read_text()) == {"start": 2}
    first = tmp_path / "attempts" / "1"
    assert json.loads((first / "manifest.json").read_text()) == {"start": 1}
    assert json.loads((first / "status.json").read_text()) == status


def test_a_full_disk_does_not_hide_the_error_that_ended_the_run(tmp_path, monkeypatch):
    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(ZeroDivisionError), recording(tmp_path, {}):
        monkeypatch.setattr(record, "atomic_write", full_disk)
        raise ZeroDivisionError("division by zero")


def test_a_finished_run_is_continued_only_on_request(tmp_path):
    with recording(tmp_path, {}):
        pass
    before = (tmp_path / "status.json").read_bytes()
    with (
        pytest.raises(RunFolderFinishedError, match=r"finished 20.*resume"),
        recording(tmp_path, {}),
    ):
        pass
    assert (tmp_path / "status.json").read_bytes() == before
    with recording(tmp_path, {}, resume=True):
        assert _status(tmp_path)["attempt"] == 2


def test_a_living_process_blocks_the_folder_and_a_killed_one_does_not(tmp_path):
    folder, go, stop = tmp_path / "run", tmp_path / "go", tmp_path / "stop"
    go.touch()
    first = _holder(folder, go, stop)
    try:
        assert _first_line(first) == "recording\n"
        for resume in (False, True):
            with (
                pytest.raises(RunFolderBusyError) as caught,
                recording(folder, {}, resume=resume),
            ):
                pass
            assert str(first.pid) in str(caught.value) and "\n" not in str(caught.value)
    finally:
        first.kill()
        first.wait()
    assert _status(folder)["state"] == "running"
    with recording(folder, {}):
        assert _status(folder)["pid"] == os.getpid()
    assert _status(folder)["state"] == "finished"


def test_one_of_many_simultaneous_starts_records(tmp_path):
    folder, go, stop = tmp_path / "run", tmp_path / "go", tmp_path / "stop"
    crowd = [_holder(folder, go, stop) for _ in range(4)]
    time.sleep(1.0)
    go.touch()
    try:
        lines = [_first_line(process) for process in crowd]
    finally:
        stop.touch()
        for process in crowd:
            process.wait(timeout=20)
    assert sorted(line.partition(":")[0].strip() for line in lines) == ["busy"] * 3 + ["recording"]


@pytest.mark.parametrize(
    "change",
    [
        {"process": "an earlier owner of the process id"},
        {"process": None},
    ],
)
def test_a_recycled_process_id_does_not_block(tmp_path, change):
    with recording(tmp_path, {}):
        status = _status(tmp_path)
        (tmp_path / "status.json").write_text(json.dumps(status))
        with pytest.raises(RunFolderBusyError), recording(tmp_path, {}):
            pass
        (tmp_path / "status.json").write_text(json.dumps(status | change))
        with recording(tmp_path, {}):
            pass


# A run on another machine is alive while it renews status.json, unless Slurm has requeued its job
# as this one. (its status, job of this process, seconds since its last sign of life, is it alive)
JOB = {"slurm_job": "7", "slurm_restarts": 1}
ELSEWHERE = [
    ({}, {}, 0, True),
    ({}, {}, 60, True),
    ({}, {}, 600, False),
    ({"state": "preempted"}, {}, 0, True),
    (JOB, {}, 0, True),
    (JOB, {"SLURM_JOB_ID": "8", "SLURM_RESTART_COUNT": "2"}, 0, True),
    (JOB, {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": "1"}, 0, True),
    (JOB, {"SLURM_JOB_ID": "7"}, 0, True),
    (JOB, {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": "2"}, 0, False),
    ({"slurm_job": None}, {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": "2"}, 0, True),
    ({"slurm_job": "7", "slurm_restarts": "x"}, {"SLURM_JOB_ID": "7"}, 0, True),
]


@pytest.mark.parametrize(("status", "job", "silence", "alive"), ELSEWHERE)
@pytest.mark.parametrize("clock", [0.0, 86_400.0])
def test_a_run_alive_on_another_machine(
    tmp_path, monkeypatch, status, job, silence, alive, clock
) -> None:
    for name in ("SLURM_JOB_ID", "SLURM_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in job.items():
        monkeypatch.setenv(name, value)
    path = tmp_path / "status.json"
    text = {"state": "running", "finished": None, "host": "another-node", "pid": 1} | status
    path.write_text(json.dumps(text))
    renewed = path.stat().st_mtime - silence
    os.utime(path, (renewed, renewed))
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + clock)  # of a machine whose clock is wrong
    if alive:
        with pytest.raises(RunFolderBusyError, match=r"^[^\n]*another-node"):
            record.check_free(tmp_path)
        with pytest.raises(RunFolderBusyError), recording(tmp_path, {}):
            pass
        assert list(tmp_path.iterdir()) == [path] and json.loads(path.read_text()) == text
    else:
        with recording(tmp_path, {}):
            pass
        assert _status(tmp_path)["state"] == "finished"


def test_a_run_shows_that_it_is_alive_until_it_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "SECONDS_BETWEEN_BEATS", 0.01)
    path = tmp_path / "status.json"
    with recording(tmp_path, {}):
        for _ in range(2):
            os.utime(path, (0, 0))
            deadline = time.monotonic() + 60
            while path.stat().st_mtime == 0:
                assert time.monotonic() < deadline
                time.sleep(0.001)
        (beating,) = [each for each in threading.enumerate() if each.name == "heartbeat"]
    beating.join(timeout=60)
    assert not beating.is_alive()


def test_a_run_folder_that_cannot_be_made_is_bad_input(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(RunFileError, match="cannot create"), recording(folder, {}):
            pass
