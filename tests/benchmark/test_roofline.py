import torch
from torch import nn

from pcam_lightning.benchmark.roofline import COPIED, cost_of, peak_of


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


def test_the_peak_of_a_precision_is_no_lower_than_that_of_float32(monkeypatch) -> None:
    """A CPU without instructions for bfloat16 computes in float32, and is not timed for minutes."""
    monkeypatch.setitem(COPIED, "cpu", 2**24)
    peaks = {d: peak_of(torch.device("cpu"), d, 1) for d in (torch.float32, torch.bfloat16)}
    assert peaks[torch.bfloat16].flops > 0.1 * peaks[torch.float32].flops > 1e7
    assert peaks[torch.float32].bytes > 1e8
