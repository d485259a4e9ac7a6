"""Scripts that stand in for Slurm's commands."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

Command = Callable[[str, str], None]


def stand_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Return a function that writes a command, whose script is given, as the first in PATH.

    No other command of Slurm is found.
    """
    folder.mkdir(exist_ok=True)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/nowhere")
    monkeypatch.delenv("SLURM_CONF", raising=False)

    def write(name: str, script: str) -> None:
        path = folder / name
        path.write_text(f"#!/bin/bash\nPATH=/usr/bin:/bin\n{script}\n")
        path.chmod(0o755)

    return write


def printing(text: str) -> str:
    """Return a script that prints a text."""
    return f"cat <<'END'\n{text.strip()}\nEND"


def shown(state: str, job: str = "JobId=9", **facts: str) -> str:
    """Return a line of `scontrol --oneliner show job`, as Slurm 22.05 writes it."""
    values = {
        "JobName": "pcam_train", "UserId": "me(1000)", "JobState": state, "Reason": "None",
        "Restarts": "0", "ExitCode": "0:0", "RunTime": "00:01:05", "TimeLimit": "00:30:00",
        "TimeMin": "N/A", "ReqNodeList": "(null)", "ExcNodeList": "(null)", "NodeList": "thin1",
        "NumNodes": "1", "NumCPUs": "4", "CPUs/Task": "4",
        "TRES": "cpu=4,mem=4G,node=1,billing=4", "MinMemoryNode": "4G",
        "StdOut": "/sweep/.submitit/8_0/8_0_0_log.out", "Power": "",
    } | facts  # fmt: skip
    return f"{job} " + " ".join(f"{key}={value}" for key, value in values.items()) + " "
