"""Ends a trial that does worse than the others did after as many epochs."""

import logging
from pathlib import Path

import optuna
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from optuna.trial import TrialState

from pcam_lightning.errors import InputError
from pcam_lightning.search.study import PRUNED, open_storage

log = logging.getLogger(__name__)


class Pruning(Callback):
    """Report a metric to the study after each validation, and stop training when it says so.

    The run ends like any other, with the scores of its best checkpoint. A run that goes on, or is
    made again, reports no epoch twice and stops where it was stopped before.

    Args:
        storage: the study's journal.
        study: its name.
        trial: the number of this run's trial.
        metric: as logged, such as `val/auroc`.
        startup_trials: how many others have to be complete before this one can be stopped.
        warmup_epochs: before which it is not stopped either.

    Raises:
        InputError: there is no such study or trial.
    """

    def __init__(
        self,
        storage: str,
        study: str,
        trial: int,
        metric: str,
        startup_trials: int,
        warmup_epochs: int,
    ) -> None:
        self.storage, self.study, self.trial, self.metric = Path(storage), study, trial, metric
        self.pruner = optuna.pruners.MedianPruner(startup_trials, warmup_epochs)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch:
            self._stop(trainer, trainer.current_epoch - 1, None)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            value = trainer.callback_metrics[self.metric].item()
            self._stop(trainer, trainer.current_epoch, value)

    def _stop(self, trainer: Trainer, epoch: int, value: float | None) -> None:
        last = epoch + 1 == trainer.max_epochs
        stop = trainer.is_global_zero and self._is_pruned(epoch, value, last)
        if trainer.world_size > 1:
            stop = trainer.strategy.reduce_boolean_decision(stop, all=False)
        if stop:
            log.info("trial %d: pruned after epoch %d", self.trial, epoch + 1)
            trainer.should_stop = True

    def _is_pruned(self, epoch: int, value: float | None, last: bool = False) -> bool:
        if not self.storage.is_file():  # opening it would make it
            raise InputError(f"callbacks.pruning.storage={self.storage}: no such file")
        try:
            study = optuna.load_study(
                storage=open_storage(self.storage), study_name=self.study, pruner=self.pruner
            )
            frozen = study.trials[self.trial]
        except (KeyError, IndexError):
            raise InputError(
                f"callbacks.pruning.trial={self.trial}: {self.storage} has no such trial of a "
                f"study {self.study}"
            ) from None
        if PRUNED in frozen.user_attrs:
            return epoch >= frozen.user_attrs[PRUNED]
        if frozen.state != TrialState.RUNNING or value is None:
            return False
        trial = optuna.trial.Trial(study, frozen._trial_id)
        if epoch not in frozen.intermediate_values:
            trial.report(value, epoch)
        if last or not trial.should_prune():  # after the last epoch there is nothing to save
            return False
        trial.set_user_attr(PRUNED, epoch)
        return True
