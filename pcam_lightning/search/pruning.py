"""Pruning: stop a trial that scores worse than earlier trials after the same number of epochs."""

import logging
from pathlib import Path

import optuna
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from optuna.trial import TrialState

from pcam_lightning.errors import InputError
from pcam_lightning.search.study import PRUNED, open_storage, open_trial

log = logging.getLogger(__name__)


class Pruning(Callback):
    """A callback that reports a metric to the study after each validation and may stop training.

    A pruned run ends like any other, with the scores of its best checkpoint. A run that is resumed
    or repeated reports no epoch twice and stops after the same epoch.

    Args:
        storage: path of the study's journal.
        study: name of the study.
        trial: number of this run's trial.
        metric: name of a logged metric, such as `val/auroc`.
        startup_trials: number of other trials to complete before this one may be stopped.
        warmup_epochs: number of epochs before this trial may be stopped.

    Raises:
        InputError: the study or trial does not exist.
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
        if not self.storage.is_file():  # open_storage would create it
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
        trial = open_trial(study, frozen)
        if epoch not in frozen.intermediate_values:
            trial.report(value, epoch)
        if last or not trial.should_prune():  # after the last epoch, nothing to stop
            return False
        trial.set_user_attr(PRUNED, epoch)
        return True
