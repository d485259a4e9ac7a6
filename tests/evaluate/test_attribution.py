"""Tests of attribution, on networks whose relevant pixels are known."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pcam_lightning.errors import InputError
from pcam_lightning.evaluate.attribution import attribute, check_attribution
from pcam_lightning.evaluate.selection import center_share
from pcam_lightning.models import CNN, MLP, densenet121, resnet18


class DarkCenter(nn.Module):
    """A network that predicts tumour for a dark center and ignores all other pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.AvgPool2d(16)  # 6 x 6; the center is 2 x 2

    def forward(self, image: Tensor) -> Tensor:
        gray = 1 - image.float().mean(3, keepdim=True).permute(0, 3, 1, 2) / 255
        weight = torch.ones(1, requires_grad=True)
        return 20 * (self.map(gray * weight)[:, 0, 2:4, 2:4].mean((1, 2)) - 0.5)


def patches(center: int, rows: int = 3) -> np.ndarray:
    pixels = np.random.default_rng(0).integers(0, 256, (rows, 96, 96, 3), dtype=np.uint8)
    pixels[:, 32:64, 32:64] = center
    return pixels


def test_occlusion_finds_the_center() -> None:
    maps = attribute(DarkCenter(), patches(10), 0.5, "occlusion")
    assert maps.shape == (3, 96, 96) and maps.dtype == np.float32
    assert (maps >= 0).all()
    # Windows of 16 pixels extend up to 8 pixels beyond the center.
    assert (center_share(maps) > 0.6).all()
    assert not maps[:, :16].any() and not maps[:, :, 80:].any()


def test_attribution_explains_the_predicted_class() -> None:
    bright = patches(245)
    assert (center_share(attribute(DarkCenter(), bright, 0.5, "occlusion")) > 0.6).all()
    # At threshold 0 the same patches are tumour, to which a bright center does not contribute.
    assert not attribute(DarkCenter(), bright, 0.0, "occlusion").any()


@pytest.mark.parametrize(
    "network", [lambda: CNN(channels=[4, 8, 8]), resnet18, densenet121], ids=["cnn", "r18", "d121"]
)
def test_grad_cam_of_convolutional_networks(network) -> None:
    torch.manual_seed(0)
    model = network().eval()
    check_attribution(model, "grad_cam")
    maps = attribute(model, patches(10, 2), 0.5, "grad_cam")
    assert maps.shape == (2, 96, 96) and (maps >= 0).all() and np.isfinite(maps).all()
    opposite = attribute(model, patches(10, 2), 1.1 if maps.any() else 0.0, "grad_cam")
    assert maps.any() or opposite.any()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_grad_cam_is_the_gradient_weighted_feature_map() -> None:
    torch.manual_seed(0)
    model = CNN(channels=[4, 8]).eval()
    image = patches(10, 1)
    outputs: list[Tensor] = []
    hook = model.stages.register_forward_hook(lambda *args: outputs.append(args[2]))
    logit = model(torch.from_numpy(image))
    hook.remove()
    sign = 1 if logit.item() >= 0 else -1
    (gradient,) = torch.autograd.grad(sign * logit.sum(), outputs[0])
    expected = (gradient.mean((2, 3), keepdim=True) * outputs[0]).sum(1, keepdim=True).relu()
    expected = nn.functional.interpolate(expected, (96, 96), mode="bilinear")[0, 0]
    maps = attribute(model, image, 0.5, "grad_cam")
    np.testing.assert_allclose(maps[0], expected.detach().numpy(), rtol=1e-4, atol=1e-7)


def test_a_network_without_a_feature_map_has_no_grad_cam() -> None:
    with pytest.raises(InputError, match="MLP has no feature map"):
        check_attribution(MLP(hidden=[4]).eval(), "grad_cam")
    check_attribution(MLP(hidden=[4]).eval(), "occlusion")


def test_no_patches() -> None:
    assert attribute(DarkCenter(), patches(10, 0), 0.5, "occlusion").shape == (0, 96, 96)
