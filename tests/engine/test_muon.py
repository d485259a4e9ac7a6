"""Muon, compared with torch's optimizers and with the singular value decomposition."""

from typing import Any

import pytest
import torch
from torch import nn

from pcam_lightning.engine.muon import Muon, is_hidden, orthogonalize
from pcam_lightning.models import CNN, MLP, P4MCNN


@pytest.mark.parametrize("shape", [(8, 40), (40, 8), (16, 16)])
def test_singular_values_become_about_one(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    result = orthogonalize(matrix, iterations=5)
    values = left.mT @ result @ right.mT
    assert values.diagonal().min() > 0.6 and values.diagonal().max() < 1.3
    assert (values - values.diagonal().diag()).abs().max() < 0.05


def test_matrices_change_as_by_torch() -> None:
    """`torch.optim.Muon` accepts only matrices: filters [N, C, K, K] are their rows there."""
    torch.manual_seed(0)
    filters = nn.Parameter(torch.randn(8, 4, 3, 3))
    matrix = nn.Parameter(filters.detach().clone().flatten(1))
    ours = Muon([filters], lr=0.1, momentum=0.9, weight_decay=0.1, iterations=4)
    theirs = torch.optim.Muon([matrix], lr=0.1, momentum=0.9, weight_decay=0.1, ns_steps=4)
    for _ in range(5):
        filters.grad = torch.randn(8, 4, 3, 3)
        matrix.grad = filters.grad.flatten(1)
        ours.step()
        theirs.step()
        torch.testing.assert_close(filters.flatten(1), matrix, rtol=0, atol=2e-2)
    assert (filters - filters.detach().mean()).std() > 0.1


def test_all_others_change_as_by_adamw() -> None:
    torch.manual_seed(0)
    shapes = [(7,), (1, 9), (5, 3, 2, 2)]
    ours = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    theirs = [nn.Parameter(each.detach().clone()) for each in ours]
    muon = Muon(ours, lr=0.1, adam_rate=0.2, betas=(0.8, 0.99))
    adam = torch.optim.AdamW(theirs, lr=0.02, betas=(0.8, 0.99), weight_decay=0.0)
    for _ in range(5):
        for mine, other in zip(ours, theirs, strict=True):
            mine.grad = other.grad = torch.randn_like(mine)
        muon.step()
        adam.step()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize(
    ("network", "hidden"), [(CNN(), 9), (P4MCNN(), 9), (MLP(hidden=(8, 4)), 2)]
)
def test_layers_between_the_first_and_the_last_are_hidden(network: nn.Module, hidden: int) -> None:
    parameters = dict(network.named_parameters())
    names = [name for name, each in parameters.items() if is_hidden(each)]
    assert len(names) == hidden
    assert all(parameters[name].ndim >= 2 for name in names)
    assert not any(name.startswith("head") for name in names)


def test_a_saved_optimizer_continues_with_the_same_steps() -> None:
    torch.manual_seed(0)
    start = CNN(channels=(4, 4))
    gradients = [[torch.randn_like(each) for each in start.parameters()] for _ in range(4)]

    def steps(network: nn.Module, optimizer: Muon, chosen: list[list[torch.Tensor]]) -> None:
        for step in chosen:
            for each, gradient in zip(network.parameters(), step, strict=True):
                each.grad = gradient.clone()
            optimizer.step()

    whole, parted, rest = (CNN(channels=(4, 4)) for _ in range(3))
    for each in (whole, parted):
        each.load_state_dict(start.state_dict())
    steps(whole, Muon(whole.parameters()), gradients)
    first = Muon(parted.parameters())
    steps(parted, first, gradients[:2])
    rest.load_state_dict(parted.state_dict())
    second = Muon(rest.parameters())
    second.load_state_dict(first.state_dict())
    steps(rest, second, gradients[2:])
    for mine, other in zip(rest.parameters(), whole.parameters(), strict=True):
        assert torch.equal(mine, other)


OUT_OF_RANGE = [
    ("lr", -1.0), ("lr", float("nan")), ("weight_decay", -1.0), ("adam_rate", -1.0),
    ("momentum", 1.0), ("betas", (0.9, 1.0)), ("iterations", 0),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), OUT_OF_RANGE)
def test_values_out_of_range_are_rejected(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name):
        Muon([nn.Parameter(torch.zeros(2))], **{name: value})
