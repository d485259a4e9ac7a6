"""Depthwise convolutions in mixed precision on a CPU."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from pcam_lightning.models.depthwise import train_depthwise_in_float32


@pytest.fixture
def maps() -> Tensor:
    return torch.rand(2, 8, 6, 6, generator=torch.Generator().manual_seed(0)).bfloat16()


@pytest.fixture
def network() -> Any:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 4, 1))
    train_depthwise_in_float32(network)
    return network


def test_they_train_in_float32_and_infer_in_bfloat16(network: Any, maps: Tensor) -> None:
    layer = network[0]
    wide = conv2d(maps.float(), layer.weight, layer.bias, padding=1, groups=8)
    narrow = conv2d(maps, layer.weight.bfloat16(), layer.bias.bfloat16(), padding=1, groups=8)
    assert not torch.equal(wide.bfloat16(), narrow)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(maps), wide.bfloat16())
        assert torch.equal(network[1](maps), nn.Conv2d.forward(network[1], maps))
        with torch.no_grad():
            assert torch.equal(layer(maps), narrow)
        layer.requires_grad_(False)
        assert torch.equal(layer(maps), narrow)
        assert torch.equal(layer(maps.clone().requires_grad_()), wide.bfloat16())
    assert torch.equal(layer(maps.float()), wide)


def test_their_gradient_is_that_of_float32(network: Any, maps: Tensor) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        network[0](maps).float().square().sum().backward()
    found = network[0].weight.grad
    twin = nn.Conv2d(8, 8, 3, padding=1, groups=8)
    twin.load_state_dict(network[0].state_dict())
    twin(maps.float()).bfloat16().float().square().sum().backward()
    assert twin.weight.grad is not None and torch.equal(found, twin.weight.grad)


def test_a_copy_of_a_network_computes_with_its_own_weights(network: Any, maps) -> None:
    twin = copy.deepcopy(network)
    with torch.no_grad():
        twin[0].weight.zero_()
        twin[0].bias.zero_()
    assert not twin[0](maps.float()).any() and network[0](maps.float()).all()
