"""Commands for short sweeps of a small network."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

SMALL = ("model=mlp", "model.hidden=[8]", "data.batch_size=16", "logger=csv", "trainer=cpu")
LIMIT = 900  # seconds per sweep, also on a slow machine


def start(*arguments: str) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-m", "pcam_lightning.train", *arguments],
        stdout=-1,
        stderr=-1,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path},
    )


def jobs_of(folder: Path) -> list[dict]:
    return json.loads((folder / "sweep.json").read_text())["jobs"]


def wait_for(condition, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
