"""Private Lightning attributes that this package uses, checked with Lightning 2.6.6.

`engine.rank_environment` overrides one private method more. A test checks that all of them exist.
"""

from lightning import Trainer


def load_loader_state(trainer: Trainer) -> None:
    """Set the training loader to the position that the loaded checkpoint holds.

    Lightning creates the loader when `configure_optimizers` asks for the number of steps. That is
    before it loads the checkpoint, and it then skips the loader's state. No public call loads it.
    """
    trainer.fit_loop._load_combined_loader_states()


def resume_as_by_epochs(trainer: Trainer) -> None:
    """Make a run with `max_steps` resume as one without: at the end of an epoch, or inside it.

    Lightning takes every resume of a run with `max_steps` for one inside an epoch, so that a run
    that was stopped at the end of an epoch repeats a part of it.
    """
    trainer.fit_loop._iteration_based_training = _return_false


def validates_next(trainer: Trainer) -> bool:
    """Return whether a validation follows the current training batch."""
    fetcher = trainer.fit_loop._data_fetcher
    assert fetcher is not None
    return trainer.fit_loop.epoch_loop._should_check_val_fx(fetcher)


def write_step_metrics(trainer: Trainer) -> None:
    """Write the metrics of the current training step to the loggers, if this step is a logged one.

    Lightning writes them after `on_train_batch_end`, too late for a checkpoint of that hook. A
    second call at the same step writes the same values again.
    """
    trainer._logger_connector.update_train_step_metrics()


def disable_sigterm_broadcast(trainer: Trainer) -> None:
    """Prevent Lightning from asking the other ranks at every step for a received SIGTERM.

    The host waits for the device at each of these broadcasts. `PreemptionCheckpoint` handles the
    signal instead.
    """
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = _do_nothing


def _do_nothing() -> None:
    pass


def _return_false() -> bool:
    return False
