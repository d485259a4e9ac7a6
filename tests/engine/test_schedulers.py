import math

import pytest
import torch
from torch import nn

from pcam_lightning.engine import schedulers

LR, STEPS, PER_EPOCH = 0.5, 100, 10


def rates(schedule, optimizer_class=torch.optim.SGD, **settings) -> list[float]:
    """The learning rate that each optimizer step would use."""
    optimizer = optimizer_class([nn.Parameter(torch.zeros(1))], lr=LR)
    entries = schedule(optimizer, STEPS, PER_EPOCH, **settings)
    used = []
    for _ in range(STEPS):
        used.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        for entry in entries:
            if entry["interval"] == "step":
                entry["scheduler"].step()
    return used


def test_constant_with_warm_up() -> None:
    assert rates(schedulers.constant) == [LR] * STEPS
    warm = rates(schedulers.constant, warmup_epochs=0.5)
    assert warm[:6] == pytest.approx([LR / 5, 2 * LR / 5, 3 * LR / 5, 4 * LR / 5, LR, LR])


def test_step_falls_by_gamma() -> None:
    used = rates(schedulers.step, every_epochs=3, gamma=0.5)
    assert used == pytest.approx([LR * 0.5 ** (step // 30) for step in range(STEPS)])


def test_cosine_equals_torchs() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=LR)
    torchs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS, eta_min=0.1 * LR)
    expected = []
    for _ in range(STEPS):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        torchs.step()
    assert rates(schedulers.cosine, final=0.1) == pytest.approx(expected)


def test_cosine_begins_when_the_warm_up_ends() -> None:
    used = rates(schedulers.cosine, warmup_epochs=2)
    assert used[:20] == pytest.approx([LR * (step + 1) / 20 for step in range(20)])
    assert used[60] == pytest.approx(LR * (1 + math.cos(math.pi / 2)) / 2)


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
def test_onecycle_rises_to_the_peak_and_falls_to_nothing(optimizer) -> None:
    used = rates(schedulers.onecycle, optimizer, warmup_epochs=3)
    assert used[0] == pytest.approx(LR / 25)
    assert max(used) == pytest.approx(LR, rel=1e-3) and used.index(max(used)) in (29, 30)
    assert used[-1] < LR / 1000


def test_plateau_falls_when_the_loss_does_not_and_keeps_its_warm_up() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=LR)
    plateau, warmup = schedulers.plateau(
        optimizer, STEPS, PER_EPOCH, warmup_epochs=0.5, factor=0.1, patience=1
    )
    assert plateau["monitor"] == "val/loss" and plateau["interval"] == "epoch"
    used = []
    for _ in range(10):
        used.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        warmup["scheduler"].step()
    assert used == pytest.approx([LR * min(5, step + 1) / 5 for step in range(10)])
    for loss in (1.0, 1.0, 1.0):
        plateau["scheduler"].step(loss)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * LR)
