"""The study of a search: its trials, in a journal that outlives the process."""

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
    from optuna.storages import JournalStorage
    from optuna.study import Study
    from optuna.trial import FrozenTrial

PRUNED = "pruned_epoch"
"""The attribute of a trial that was told to stop: after which epoch, from 0."""


def summary_name(metric: str) -> str:
    """What `summary.json` calls a metric that is logged as `val/NAME`."""
    name = metric.removeprefix("val/")
    return {"loss": "log_loss"}.get(name, name)


def open_storage(path: Path) -> JournalStorage:
    """A journal, since SQLite's locks cannot be trusted on disks that machines share."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return JournalStorage(JournalFileBackend(str(path)))


def open_study(path: Path, name: str, metric: str, begun_with: Mapping[str, Any]) -> Study:
    """Begin a study, or go on with the one that is there.

    Args:
        path: of the journal.
        begun_with: every setting that makes trials comparable, by its key.

    Raises:
        InputError: the journal is damaged, or the study was begun with another setting; names the
            first.
    """
    import optuna

    direction = "maximize" if METRICS[summary_name(metric)] == "higher" else "minimize"
    try:
        study = optuna.create_study(
            storage=open_storage(path), study_name=name, direction=direction, load_if_exists=True
        )
        before = study.user_attrs.get("begun_with")
    except (ValueError, KeyError) as error:
        raise InputError(f"{path}: no journal of a study ({error}); expected another") from None
    if before is None:
        study.set_user_attr("begun_with", dict(begun_with))
        return study
    for key in sorted(before.keys() | begun_with.keys()):
        if before.get(key) != begun_with.get(key):
            raise InputError(
                f"{path}: begun with {key}={before.get(key)}, now {begun_with.get(key)}; expected "
                "the same to go on with, or another folder"
            )
    return study


def ask(study: Study, space: Space, seed: int, startup_trials: int) -> FrozenTrial:
    """The next trial, with a value for each dimension of the space."""
    from optuna.samplers import TPESampler

    # A stream for each trial: a search that was stopped would else draw its first trials again.
    stream = derive_seed(seed, "trial", len(study.get_trials(deepcopy=False))) % 2**32
    study.sampler = TPESampler(n_startup_trials=startup_trials, seed=stream)
    number = study.ask(space.dimensions).number
    return study.get_trials(deepcopy=False)[number]


@dataclass
class Outcome:
    """How a trial's run ended: with a value, else with the reason why it has none."""

    value: float | None = None
    reason: str | None = None


def read_outcome(folder: Path, metric: str) -> Outcome | None:
    """What a run folder tells, whatever its process may have returned; None where a start with the
    same folder would begin the run or go on with it."""
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
    """End a trial: complete, pruned (with the value that it had when it was stopped) or failed."""
    from optuna.trial import Trial, TrialState

    # Read again: the run itself has reported to it.
    latest = study.get_trials(deepcopy=False)[trial.number]
    if outcome.value is None:
        Trial(study, trial._trial_id).set_user_attr("reason", outcome.reason)
        study.tell(trial.number, state=TrialState.FAIL)
    elif PRUNED in latest.user_attrs:
        study.tell(trial.number, state=TrialState.PRUNED)
    else:
        study.tell(trial.number, outcome.value)
