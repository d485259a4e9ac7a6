import pytest
import torch
from torch import nn

from pcam_lightning.benchmark.roofline import COPIED, SIDE, cost_of, peak_of


def test_a_matrix_product_by_hand() -> None:
    a, b = torch.randn(4, 8), torch.randn(8, 16)
    cost = cost_of(lambda: a @ b)
    assert cost.flops == 2 * 4 * 8 * 16
    assert cost.bytes == 4 * (4 * 8 + 8 * 16 + 4 * 16)  # float32: both factors and the product


def test_a_backward_pass_by_hand() -> None:
    layer = nn.Linear(8, 16, bias=False)
    image = torch.randn(4, 8)
    cost = cost_of(lambda: layer(image).sum().backward())
    # Forward, and backward for the weights only: the input needs no gradient.
    assert cost.flops == 2 * (2 * 4 * 8 * 16)


def test_a_convolution_by_hand() -> None:
    image, weight = torch.randn(2, 3, 8, 8), torch.randn(5, 3, 3, 3)
    cost = cost_of(lambda: nn.functional.conv2d(image, weight, padding=1))
    assert cost.flops == 2 * (2 * 5 * 8 * 8) * (3 * 3 * 3)


def test_a_view_costs_no_traffic() -> None:
    image = torch.randn(4, 8)
    assert cost_of(lambda: image.reshape(32)[2:].view(2, 15)).bytes == 0
    assert cost_of(lambda: image.add_(1)).bytes == 2 * 4 * 32  # read and written


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_peaks_are_positive(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    monkeypatch.setitem(SIDE, "cpu", 512)
    monkeypatch.setitem(COPIED, "cpu", 2**24)
    peak = peak_of(torch.device("cpu"), dtype, repeats=1)
    assert peak.flops > 1e8 and peak.bytes > 1e8
