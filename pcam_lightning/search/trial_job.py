"""A job of a search that nobody waits for: it draws its own settings and reports its own score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.types import Quote, QuotedString
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn

from pcam_lightning.slurm.hydra_private import SweepLoader
from pcam_lightning.slurm.job_config import JobConfig, compose
from pcam_lightning.slurm.launcher import CheckingLauncher
from pcam_lightning.slurm.requeue import checkpoint

if TYPE_CHECKING:
    from pcam_lightning.search.space import Space

PRUNING = ("study", "metric", "startup_trials", "warmup_epochs")
"""Settings that are arguments of the pruning callback in each job."""


def trial_overrides(
    space: Space, settings: Mapping[str, Any], storage: Path, number: int, values: Mapping[str, Any]
) -> list[str]:
    """Return the overrides of a trial's job.

    Args:
        space: search space.
        settings: keys of `conf/hydra/sweeper/optuna.yaml`.
        storage: journal of the study.
        number: number of the trial.
        values: value of each dimension of the space.
    """
    overrides = space.overrides(values)
    if settings["pruner"] is None:
        return overrides
    pruning = {
        "_target_": "pcam_lightning.search.pruning.Pruning",
        "storage": QuotedString(str(storage), Quote.single).with_quotes(),
        "trial": number,
        **{key: settings[key] for key in PRUNING},
    }
    return overrides + [f"+callbacks.pruning.{key}={value}" for key, value in pruning.items()]


@dataclass
class TrialJob:
    """A function that runs trial `number` of a study, inside a job.

    A job that is requeued continues with the settings that it has drawn.

    Attributes:
        launcher: launcher that submits the job.
        loader: composer of job configs, which has read the config files at submission.
        space: search space.
        settings: keys of `conf/hydra/sweeper/optuna.yaml`.
        storage: journal of the study.
        folder: folder of the sweep.
        data: keys of `data` that were settled at submission.
    """

    launcher: CheckingLauncher
    loader: SweepLoader
    space: Space
    settings: Mapping[str, Any]
    storage: Path
    folder: Path
    data: Mapping[str, Any]

    def __call__(self, number: int, singletons: dict[type, Singleton]) -> JobReturn:
        from pcam_lightning.search.report import write_report
        from pcam_lightning.search.study import draw, load_study, read_outcome, tell

        Singleton.set_state(singletons)
        study = load_study(self.storage, self.settings["study"])
        trial = draw(
            study, number, self.space, self.settings["seed"], self.settings["startup_trials"]
        )
        words = trial_overrides(self.space, self.settings, self.storage, number, trial.params)
        job = self._settled(compose(self.loader, words, number))
        try:
            return self.launcher(job.given, singletons)
        finally:
            # A run that is to be resumed has no outcome yet.
            if outcome := read_outcome(self.folder / str(number), self.settings["metric"]):
                tell(study, trial, outcome)
                write_report(self.folder, study, self.settings["metric"])

    checkpoint = checkpoint

    def _settled(self, job: JobConfig) -> JobConfig:
        data = job.given.get("data")
        if not data or not self.data:
            return job
        return replace(job, given=job.given | {"data": {**data, **self.data}})


def settled_data(configs: Sequence[JobConfig]) -> dict[str, Any]:
    """Return the keys of `data` that checked configs share and a job must not settle again."""
    found = [
        {key: config.given["data"][key] for key in ("root", "default_root")}
        for config in configs
        if "data" in config.given
    ]
    return found[0] if found and all(each == found[0] for each in found) else {}
