import pytest
import torch
from model_builders import NETWORKS

from pcam_lightning import models
from pcam_lightning.models.pretrained import frozen_keys
from pcam_lightning.models.tta import D4TTA, orientations


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_maps_each_patch_to_a_logit_and_trains_its_parameters(name: str) -> None:
    torch.manual_seed(0)
    model = NETWORKS[name]()
    image = torch.randint(0, 256, (2, 96, 96, 3), dtype=torch.uint8)
    logit = model(image)
    assert logit.shape == (2,) and logit.dtype == torch.float32
    logit.sum().backward()
    frozen = frozen_keys(model)
    parameters = dict(model.named_parameters())
    assert frozen <= model.state_dict().keys() and not frozen >= parameters.keys()
    for key, parameter in parameters.items():
        assert (parameter.grad is None) == (not parameter.requires_grad) == (key in frozen), key
    model.eval()
    with torch.no_grad():  # in evaluation, the other patches of a batch have no influence
        together = model(image)
        torch.testing.assert_close(together[:1], model(image[:1]), rtol=1e-4, atol=1e-4)
        mean = torch.stack([model(view) for view in orientations(image)]).mean(0)
        torch.testing.assert_close(D4TTA(model)(image), mean, rtol=1e-4, atol=1e-4)
    assert not any(module.training for module in model.modules())


def test_normalization_by_its_formula() -> None:
    normalize = models.Normalize(mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 1.0))
    image = torch.tensor([0, 255, 51], dtype=torch.uint8).repeat(1, 96, 96, 1)
    expected = torch.tensor([-1.0, 3.0, 0.2]).view(1, 3, 1, 1).expand(1, 3, 96, 96)
    result = normalize(image)
    torch.testing.assert_close(result, expected)
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert set(normalize.state_dict()) == {"mean", "std"}


@pytest.mark.parametrize("name", [name for name in NETWORKS if not name.endswith(("head", "lora"))])
@pytest.mark.parametrize(
    ("shape", "dtype", "found"),
    [
        ((2, 96, 96, 3), torch.float32, "float32 [2, 96, 96, 3]"),
        ((2, 3, 96, 96), torch.uint8, "uint8 [2, 3, 96, 96]"),
        ((2, 64, 64, 3), torch.uint8, "uint8 [2, 64, 64, 3]"),
        ((96, 96, 3), torch.uint8, "uint8 [96, 96, 3]"),
    ],
    ids=str,
)
def test_a_network_takes_only_bytes_with_channels_last(
    name: str, shape: tuple[int, ...], dtype: torch.dtype, found: str
) -> None:
    with torch.device("meta"):
        model = NETWORKS[name]()
        with pytest.raises(TypeError) as caught:
            model(torch.zeros(shape, dtype=dtype))
    message = str(caught.value)
    assert found in message and "uint8 [B, 96, 96, 3]" in message and "\n" not in message


def test_the_mlp_has_the_configured_layers() -> None:
    sizes = [p.shape for p in models.MLP(hidden=(64, 32)).parameters() if p.ndim == 2]
    assert sizes == [(64, 27_648), (32, 64), (1, 32)]
    linear = models.MLP(hidden=())
    assert sum(p.numel() for p in linear.parameters()) == 27_649


def test_the_head_of_the_cnn_pools_the_patch_and_its_center_third() -> None:
    """With 16-pixel means as features, the inputs of the head are known colors."""
    model = models.CNN(channels=(3,))
    model.stages = torch.nn.Sequential(torch.nn.AvgPool2d(16))
    linear = model.head[1]
    assert isinstance(linear, torch.nn.Linear)
    image = torch.zeros(1, 96, 96, 3, dtype=torch.uint8)
    image[:, 32:64, 32:64, 0] = 255
    image[:, 32:48, 32:48, 1] = image[:, :16, :16, 2] = 255
    for feature, expected in enumerate([1 / 9, 1 / 36, 1 / 36, 1, 1 / 4, 0, 1, 1, 0]):
        linear.weight.data = torch.eye(9)[feature : feature + 1]
        linear.bias.data = torch.zeros(1)
        torch.testing.assert_close(model(image), torch.tensor([2.0 * expected - 1]))
