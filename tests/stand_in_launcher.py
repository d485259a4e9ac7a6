"""A launcher that writes run folders whose score is a formula, instead of training."""

import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from omegaconf import OmegaConf, open_dict

from pcam_lightning.files import write_json
from pcam_lightning.runs.process import process_mark

TARGET = "hydra_plugins.stand_in.StandIn"
ARGUMENTS = ("sweep=optuna", f"hydra.launcher._target_={TARGET}", "hydra.sweep.dir=search")


def peak(config: dict[str, Any]) -> float:
    """Return a score that depends on the learning rate only: 1 at 0.01, less elsewhere."""
    return 1 - 0.2 * math.log10(config["optimizer"]["lr"] / 0.01) ** 2


class StandIn(Launcher):
    """A launcher whose `job(config, folder)` returns a run's score or raises to end the batch."""

    job: Callable[[dict[str, Any], Path], float | None] = staticmethod(
        lambda config, _: peak(config)
    )
    batches: list[tuple[int, int]] = []  # noqa: RUF012

    def setup(self, *, hydra_context, task_function, config) -> None:
        self.context, self.config = hydra_context, config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        self.batches.append((initial_job_idx, len(job_overrides)))
        for number, overrides in enumerate(job_overrides, start=initial_job_idx):
            cfg = self.context.config_loader.load_sweep_config(self.config, list(overrides))
            with open_dict(cfg):
                del cfg["hydra"]
                cfg.run_dir = "run"
            folder = Path(self.config.hydra.sweep.dir) / str(number)
            (folder / ".hydra").mkdir(parents=True, exist_ok=True)
            (folder / ".hydra" / "overrides.yaml").write_text(json.dumps(list(overrides)))
            write_status(folder, "running")
            config: Any = OmegaConf.to_container(cfg, resolve=True)
            value = type(self).job(config, folder)
            scores = {"metrics": {"auroc": {"value": value}}}
            write_json(folder / "summary.json", {"dataset": "formula", "val": scores})
            write_status(folder, "finished")
        return []


def write_status(folder: Path, state: str, error: str | None = None) -> None:
    process = {
        "host": os.uname().nodename,
        "pid": os.getpid(),
        "process": process_mark(os.getpid()),
    }
    status = {"state": state, "finished": None, "error": error and {"text": error}}
    (folder / "status.json").write_text(json.dumps(status | process))


def register() -> None:
    Plugins.instance().class_name_to_class[TARGET] = StandIn


def killed_in_trial(number: int) -> Callable[[dict[str, Any], Path], float]:
    """Return a job that kills its process in one trial."""

    def job(config: dict[str, Any], folder: Path) -> float:
        if folder.name == str(number):
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)
        return peak(config)

    return job


if __name__ == "__main__":  # stand_in_launcher.py NUMBER ARGUMENT...: killed in trial NUMBER
    from pcam_lightning.train import __main__ as train

    register()
    StandIn.job = staticmethod(killed_in_trial(int(sys.argv.pop(1))))
    train.main()
