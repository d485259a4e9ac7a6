"""Seconds from the start of a command to its output, and to the first training step."""

import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from lightning import Callback, LightningModule, Trainer


class FirstStep(Callback):
    """Callback that ends the process with exit code 0 after the first training step."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        os._exit(0)


def time_commands(arguments: list[str], repeats: int) -> list[dict[str, Any]]:
    """Time commands of `train` in turn and return a row for each.

    A row has `contender` (the name) and the `median`, `low` and `high` seconds.

    Args:
        arguments: overrides of `train` for the first training step.
        repeats: measurements of each command, after one that is discarded.

    Raises:
        RuntimeError: a command ended with an unexpected exit code.
    """
    first = f"+callbacks.first_step._target_={FirstStep.__module__}.FirstStep"
    commands = {
        "--help": (["--help"], 0),
        "--cfg job": (["--cfg", "job"], 0),
        "an error in the config": (["optimizer.lrr=1"], 2),
        "first training step": ([*arguments, first], 0),
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(repeats + 1):
        for name, (words, code) in commands.items():
            seconds[name].append(_time(words, code))
    return [
        {"contender": name, "median": float(np.median(each[1:])), "low": min(each[1:])}
        | {"high": max(each[1:])}
        for name, each in seconds.items()
    ]


def _time(words: list[str], code: int) -> float:
    command = [sys.executable, "-m", "pcam_lightning.train", *words]
    with TemporaryDirectory() as folder:
        if code == 0 and words[0].find("=") > 0:
            command.append(f"hydra.run.dir={Path(folder) / 'run'}")
        start = time.perf_counter()
        ended = subprocess.run(command, capture_output=True, text=True)
        elapsed = time.perf_counter() - start
    if ended.returncode != code:
        raise RuntimeError(f"{' '.join(command)} ended with {ended.returncode}: {ended.stderr}")
    return elapsed
