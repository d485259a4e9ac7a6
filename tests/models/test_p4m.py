"""The orientation of a patch has no effect on the equivariant network."""

import pytest
import torch
from torch import Tensor, nn

from pcam_lightning.models import CNN, P4MCNN
from pcam_lightning.models.p4m import ORIENTATIONS, GroupConv, compose, orient
from pcam_lightning.models.tta import orientations


def test_the_orientations_form_a_group() -> None:
    image = torch.arange(16.0).view(4, 4)
    views = [orient(image, element) for element in range(ORIENTATIONS)]
    assert len({tuple(view.flatten().tolist()) for view in views}) == ORIENTATIONS
    for first in range(ORIENTATIONS):
        for second in range(ORIENTATIONS):
            assert orient(views[first], second).equal(views[compose(first, second)])


def oriented_maps(maps: Tensor, element: int) -> Tensor:
    """Return the maps [B, 8 * C, H, W] that belong to the oriented input, by their definition.

    A turned input turns every map, and the map of orientation h becomes that of h after the turn.
    """
    turned = orient(maps.unflatten(1, (ORIENTATIONS, -1)), element)
    result = torch.empty_like(turned)
    for source in range(ORIENTATIONS):
        result[:, compose(source, element)] = turned[:, source]
    return result.flatten(1, 2)


@pytest.mark.parametrize("element", range(ORIENTATIONS))
@pytest.mark.parametrize(("size", "stride"), [(3, 1), (5, 1), (4, 2), (6, 2)])
def test_a_group_convolution_is_equivariant(size: int, stride: int, element: int) -> None:
    torch.manual_seed(0)
    lift = GroupConv(3, 2, size, stride, lifts=True).double()
    layer = GroupConv(2, 3, size, stride).double()
    image = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    maps = lift(image)
    torch.testing.assert_close(lift(orient(image, element)), oriented_maps(maps, element))
    output = layer(maps)
    assert output.shape[1:] == (3 * ORIENTATIONS, 16 // stride**2, 16 // stride**2)
    torch.testing.assert_close(layer(oriented_maps(maps, element)), oriented_maps(output, element))


@pytest.mark.parametrize("training", [True, False])
def test_the_logit_is_the_same_in_all_orientations(training: bool) -> None:
    torch.manual_seed(0)
    model = P4MCNN(channels=(2, 3, 4, 5)).double().train(training)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.running_mean is not None and layer.running_var is not None
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 2)
    image = torch.randint(0, 256, (3, 96, 96, 3), dtype=torch.uint8)
    with torch.no_grad():
        logits = [model(view.contiguous()) for view in orientations(image)]
    assert logits[0].std() > 0
    for logit in logits[1:]:
        torch.testing.assert_close(logit, logits[0], rtol=0, atol=1e-12)


def test_it_has_as_many_parameters_as_the_plain_network() -> None:
    counts = [sum(each.numel() for each in model.parameters()) for model in (P4MCNN(), CNN())]
    assert abs(counts[0] / counts[1] - 1) < 0.01
