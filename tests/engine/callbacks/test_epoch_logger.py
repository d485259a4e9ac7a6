"""An epoch's line, of a whole epoch and of what was left of one."""

import logging
import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pcam_lightning.engine.callbacks import EpochLogger, Throughput

MODULE: Any = SimpleNamespace(log=lambda *_, **__: None)
BATCH: Any = SimpleNamespace(row=torch.arange(4))


@pytest.fixture
def trainer() -> Any:
    optimizer = SimpleNamespace(param_groups=[{"lr": 0.1}])
    return SimpleNamespace(
        current_epoch=0,
        max_epochs=2,
        callback_metrics={"val/auroc": torch.tensor(0.75)},
        optimizers=[optimizer],
        train_dataloader=None,
        world_size=1,
    )


@pytest.mark.parametrize("is_whole", [True, False])
@pytest.mark.parametrize("steps", [0, 2])
def test_seconds_begin_with_this_start(trainer, caplog, is_whole: bool, steps: int) -> None:
    line, throughput = EpochLogger(), Throughput()
    with caplog.at_level(logging.INFO):
        for each in (line, throughput):
            each.on_train_start(trainer, MODULE)
            if is_whole:  # Lightning starts no epoch where it resumes inside one
                each.on_train_epoch_start(trainer, MODULE)
            for step in range(steps):
                loss = {"loss": torch.tensor(float(step))}
                each.on_train_batch_end(trainer, MODULE, loss, BATCH, step)
            each.on_validation_end(trainer, MODULE) if each is line else None
            each.on_train_epoch_end(trainer, MODULE)
    (text,) = caplog.messages
    seconds = re.search(r"([\d.]+) s( since the resume)?$", text)
    assert seconds and float(seconds[1]) < 60
    assert bool(seconds[2]) != is_whole
    assert ("train/loss 0.500" in text) == bool(steps)
    assert "val/auroc 0.750" in text
    assert throughput.patches == 4 * steps and 0 <= throughput.seconds < 60


def test_an_epoch_that_had_ended_before_the_resume_has_no_second_line(trainer, caplog) -> None:
    line = EpochLogger()
    with caplog.at_level(logging.INFO):
        line.on_train_start(trainer, MODULE)
        line.on_train_epoch_end(trainer, MODULE)
    assert not caplog.messages


def test_a_rank_without_output_does_not_silence_the_next_run(trainer, caplog) -> None:
    silent, line = EpochLogger(), EpochLogger()
    silent.disable()
    with caplog.at_level(logging.INFO):
        for each in (silent, line):
            each.on_train_start(trainer, MODULE)
            each.on_validation_end(trainer, MODULE)
            each.on_train_epoch_end(trainer, MODULE)
    assert len(caplog.messages) == 1
