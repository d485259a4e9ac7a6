"""Optuna study of a search: its trials, in a journal file that outlives the process."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pcam_lightning.errors import InputError
from pcam_lightning.metrics.metrics import METRICS
from pcam_lightning.runs.run import Run
from pcam_lightning.runs.status import RunFileError
from pcam_lightning.search.space import Space
from pcam_lightning.seeds import derive_seed

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.storages import JournalStorage
    from optuna.study import Study
    from optuna.trial import FrozenTrial, Trial

PRUNED = "pruned_epoch"
"""The attribute of a pruned trial that holds the epoch, from 0, after which it was stopped."""


def summary_name(metric: str) -> str:
    """Return the name in `summary.json` of a metric that is logged as `val/NAME`."""
    name = metric.removeprefix("val/")
    return {"loss": "log_loss"}.get(name, name)


def open_storage(path: Path) -> JournalStorage:
    """Open or create a journal file; SQLite's locks are unreliable on shared file systems."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return JournalStorage(JournalFileBackend(str(path)))


def open_study(path: Path, name: str, metric: str, begun_with: Mapping[str, Any]) -> Study:
    """Create a study, or continue an existing one.

    Args:
        path: journal file.
        name: name of the study in the journal.
        metric: name of the metric to optimize, such as `val/auroc`.
        begun_with: the settings that must stay the same for trials to be comparable.

    Raises:
        InputError: the journal is damaged, or the study was begun with another value of a setting,
            which it names.
    """
    import optuna

    direction = "maximize" if METRICS[summary_name(metric)] == "higher" else "minimize"
    try:
        study = optuna.create_study(
            storage=open_storage(path), study_name=name, direction=direction, load_if_exists=True
        )
        before = study.user_attrs.get("begun_with")
    except (ValueError, KeyError) as error:
        raise InputError(f"{path}: not the journal of a study ({error})") from None
    if before is None:
        study.set_user_attr("begun_with", dict(begun_with))
        return study
    for key in sorted(before.keys() | begun_with.keys()):
        if before.get(key) != begun_with.get(key):
            raise InputError(
                f"{path}: begun with {key}={before.get(key)}, now {begun_with.get(key)}; expected "
                "the same value to continue, or another hydra.sweep.dir"
            )
    return study


def load_study(path: Path, name: str) -> Study:
    """Return an existing study of a journal file."""
    import optuna

    return optuna.load_study(storage=open_storage(path), study_name=name)


def ask(study: Study, space: Space, seed: int, startup_trials: int) -> FrozenTrial:
    """Return the next trial, with a value for each dimension of the space."""
    return draw(study, study.ask().number, space, seed, startup_trials)


def draw(study: Study, number: int, space: Space, seed: int, startup_trials: int) -> FrozenTrial:
    """Draw the values of a trial from the scores of the earlier ones, unless it has them."""
    from optuna.samplers import TPESampler

    # One seed per trial: with one per process, a continued search would repeat its first trials.
    stream = derive_seed(seed, "trial", number) % 2**32
    study.sampler = TPESampler(n_startup_trials=startup_trials, seed=stream)
    frozen = study.get_trials(deepcopy=False)[number]
    if frozen.params.keys() != space.dimensions.keys():
        trial = open_trial(study, frozen)
        for name, distribution in space.dimensions.items():
            _suggest(trial, name, distribution)
    return study.get_trials(deepcopy=False)[number]


def _suggest(trial: Trial, name: str, distribution: BaseDistribution) -> None:
    given: Any = distribution
    if hasattr(given, "choices"):
        trial.suggest_categorical(name, given.choices)
    elif type(given).__name__ == "IntDistribution":
        trial.suggest_int(name, given.low, given.high, step=given.step, log=given.log)
    else:
        trial.suggest_float(name, given.low, given.high, step=given.step, log=given.log)


def open_trial(study: Study, trial: FrozenTrial) -> Trial:
    """Return a trial that can be written to.

    Optuna publishes no way to get one by its number (checked with optuna 5.0).
    """
    import optuna

    return optuna.trial.Trial(study, trial._trial_id)


@dataclass
class Outcome:
    """The end of a trial's run: its value, or the reason for having none."""

    value: float | None = None
    reason: str | None = None


def read_outcome(folder: Path, metric: str) -> Outcome | None:
    """Return the outcome in a run folder; None if a restart would begin or continue the run."""
    try:
        run = Run(folder)
    except RunFileError:
        return None
    try:
        if run.state == "failed":
            return Outcome(reason=(run.status.get("error") or {}).get("text", "failed"))
        if run.state != "finished":
            return None
        value = run.summary["val"]["metrics"][summary_name(metric)]["value"]
    except (RunFileError, KeyError, TypeError) as error:
        return Outcome(reason=f"{type(error).__name__}: {error}")
    if value is None or not math.isfinite(value):
        return Outcome(reason=f"{metric} is undefined")
    return Outcome(value)


def tell(study: Study, trial: FrozenTrial, outcome: Outcome) -> None:
    """Record the end of a trial: complete, pruned (with its last value) or failed."""
    from optuna.trial import TrialState

    # Read again, since the run itself has reported to the trial.
    latest = study.get_trials(deepcopy=False)[trial.number]
    if outcome.value is None:
        open_trial(study, trial).set_user_attr("reason", outcome.reason)
        study.tell(trial.number, state=TrialState.FAIL)
    elif PRUNED in latest.user_attrs:
        study.tell(trial.number, state=TrialState.PRUNED)
    else:
        study.tell(trial.number, outcome.value)
