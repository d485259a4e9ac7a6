"""Networks of timm: their features, sizes, trained weights, and the arguments that they take."""

from typing import Any

import pytest
import timm
import torch
from model_builders import SWIN, TIMM
from torch import Tensor
from torch.nn.functional import interpolate

from pcam_lightning.engine.parameter_groups import build_optimizer
from pcam_lightning.errors import InputError
from pcam_lightning.models import TimmClassifier
from pcam_lightning.models.build import build_network
from pcam_lightning.weights.state import load_pretrained


def patches(number: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (number, 96, 96, 3), dtype=torch.uint8, generator=generator)


def give(model: TimmClassifier, found: Tensor, pooled: Tensor, monkeypatch: Any) -> list[Tensor]:
    """Make a backbone compute these values; return the list of its inputs."""
    inputs: list[Tensor] = []

    def forward_features(pixels: Tensor) -> Tensor:
        inputs.append(pixels)
        return found

    monkeypatch.setattr(model.backbone, "forward_features", forward_features)
    monkeypatch.setattr(model.backbone, "forward_head", lambda *_, **__: pooled)
    return inputs


def grid_with_center(side: int, channels: int) -> tuple[Tensor, Tensor]:
    """Return [1, side, side, channels] of noise, and the mean of its center third by a loop."""
    grid = torch.rand(1, side, side, channels, generator=torch.Generator().manual_seed(1))
    inside = range(side // 3, side - side // 3)
    center = sum((grid[0, y, x] for y in inside for x in inside), torch.zeros(channels))
    return grid, center[None] / len(inside) ** 2


@pytest.mark.parametrize("side", [2, 3, 6, 7])
@pytest.mark.parametrize("layout", ["channels first", "channels last", "tokens", "with prefix"])
def test_the_center_is_the_mean_of_the_middle_third(monkeypatch, side: int, layout: str) -> None:
    prefix = 5 if layout == "with prefix" else 0
    arguments = {"reg_tokens": 4} if prefix else {"class_token": False, "global_pool": "avg"}
    tokens = layout in ("tokens", "with prefix")
    model = TimmClassifier("test_vit", arguments) if tokens else TimmClassifier("test_resnet")
    channels = 64 if tokens else 96
    grid, center = grid_with_center(side, channels)
    found = grid
    if layout == "channels first":
        found = grid.permute(0, 3, 1, 2)
    elif tokens:
        found = torch.cat([torch.full((1, prefix, channels), 1e9), grid.flatten(1, 2)], dim=1)
    pooled = torch.rand(1, channels)
    give(model, found, pooled, monkeypatch)
    torch.testing.assert_close(model.features(patches(1)), torch.cat([pooled, center], dim=1))


def test_without_pooling_the_class_token_or_the_mean_describes_the_patch(monkeypatch) -> None:
    grid, center = grid_with_center(6, 64)
    token = torch.full((1, 1, 64), 3.0)
    found = torch.cat([token, grid.flatten(1, 2)], dim=1)
    model = TimmClassifier("test_vit", {"global_pool": ""})
    give(model, found, found, monkeypatch)
    torch.testing.assert_close(model.features(patches(1)), torch.cat([token[:, 0], center], dim=1))
    model = TimmClassifier("test_vit", {"class_token": False, "global_pool": ""})
    found = grid.flatten(1, 2)
    give(model, found, found, monkeypatch)
    expected = torch.cat([found.mean(1), center], dim=1)
    torch.testing.assert_close(model.features(patches(1)), expected)


@pytest.mark.parametrize(
    ("name", "arguments", "native", "expected"),
    [
        ("test_resnet", {}, 160, 96),
        ("test_vit", {}, 160, 96),
        ("swin_tiny_patch4_window7_224", SWIN, 224, 96),
        ("vit_tiny_patch16_224", {"patch_size": 14, "depth": 1}, 224, 224),
        ("test_maxvit", {}, 160, 160),
        ("xcit_nano_12_p16_224", {"depth": 1}, 224, 96),
    ],
    ids=str,
)
def test_the_size_is_96_where_the_network_works_with_it(
    name: str, arguments: dict[str, Any], native: int, expected: int
) -> None:
    model = TimmClassifier(name, arguments, native_size=native)
    assert model.size == expected
    assert model(patches()).shape == (2,)
    assert TimmClassifier(name, arguments, "native", native).size == native


@pytest.mark.parametrize("mode", ["bicubic", "bilinear"])
def test_patches_are_resized_after_normalization(monkeypatch, mode: str) -> None:
    model = TimmClassifier("test_resnet", size=224, interpolation=mode)
    inputs = give(model, torch.zeros(2, 96, 7, 7), torch.zeros(2, 96), monkeypatch)
    image = patches()
    model.normalize.set([0.2, 0.5, 0.7], [0.1, 0.2, 0.4])
    model(image)
    scaled = (image / 255 - torch.tensor([0.2, 0.5, 0.7])) / torch.tensor([0.1, 0.2, 0.4])
    expected = interpolate(scaled.permute(0, 3, 1, 2), size=(224, 224), mode=mode)
    torch.testing.assert_close(inputs[0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "size"), [("test_vit", 160), ("test_convnext", 96), ("test_efficientnet", 224)]
)
def test_with_published_weights_the_features_are_those_of_timm(name: str, size: int) -> None:
    torch.manual_seed(0)
    published: Any = timm.create_model(name, num_classes=10).eval()
    model = TimmClassifier(name, size=size, native_size=160).eval()
    load_pretrained(model, published.state_dict(), "published")
    image = patches()
    pixels = interpolate((image / 127.5 - 1).permute(0, 3, 1, 2), (size, size), mode="bicubic")
    with torch.no_grad():
        expected = published.forward_head(published.forward_features(pixels), pre_logits=True)
        found = model.features(image)[:, : expected.shape[1]]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_positions_are_resampled_as_timm_does_it() -> None:
    torch.manual_seed(0)
    published = timm.create_model("test_vit")
    expected: Any = timm.create_model("test_vit", img_size=96)
    resampled = timm.models.vision_transformer.checkpoint_filter_fn(
        dict(published.state_dict()), expected
    )
    model = TimmClassifier("test_vit", tune="head")
    load_pretrained(model, published.state_dict(), "published")
    assert model.size == 96
    torch.testing.assert_close(model.backbone.state_dict()["pos_embed"], resampled["pos_embed"])


@pytest.mark.parametrize("name", TIMM)
def test_loading_weights_changes_no_choice_of_trained_parameters(name: str) -> None:
    model = TIMM[name]()
    before = [(key, each.requires_grad) for key, each in model.named_parameters()]
    published = timm.create_model(*TIMM[name].args[:1], **TIMM[name].args[1])
    load_pretrained(model, published.state_dict(), "published")
    assert [(key, each.requires_grad) for key, each in model.named_parameters()] == before


RATES = {"cls_token": 6, "pos_embed": 6, "patch_embed": 6, "norm": 0}
"""Layers of `test_vit` after each part of it; its six blocks follow each other."""
RATES |= {f"blocks.{block}": 5 - block for block in range(6)}


@pytest.mark.parametrize(("backbone_rate", "decay"), [(0.1, 0.5), (1.0, 1.0), (1.0, 0.9)])
def test_each_layer_has_its_learning_rate(backbone_rate: float, decay: float) -> None:
    model = TimmClassifier("test_vit", backbone_rate=backbone_rate, layer_decay=decay)
    optimizer = build_optimizer(lambda groups: torch.optim.SGD(groups, lr=0.2), model)
    found = [(p, group["lr"]) for group in optimizer.param_groups for p in group["params"]]
    assert len(found) == len({id(parameter) for parameter, _ in found})
    rates = {id(parameter): rate for parameter, rate in found}
    assert rates.keys() == {id(parameter) for parameter in model.parameters()}
    assert optimizer.param_groups[0]["lr"] == 0.2
    for key, parameter in model.named_parameters():
        part = key.removeprefix("backbone.")
        after = next((n for each, n in RATES.items() if part.startswith(f"{each}.")), None)
        after = RATES.get(part, after)
        expected = 0.2 if key.startswith("head.") else 0.2 * backbone_rate * decay ** (after or 0)
        assert rates[id(parameter)] == pytest.approx(expected), key


@pytest.mark.parametrize("name", TIMM)
def test_the_optimizer_gets_each_trained_parameter_once(name: str) -> None:
    model = TIMM[name]()
    optimizer = build_optimizer(lambda groups: torch.optim.SGD(groups, lr=1.0), model)
    given = [id(each) for group in optimizer.param_groups for each in group["params"]]
    trained = [id(each) for each in model.parameters() if each.requires_grad]
    assert sorted(given) == sorted(trained)


@pytest.mark.parametrize("name", TIMM)
def test_training_changes_what_the_optimizer_has_and_nothing_else(name: str) -> None:
    torch.manual_seed(0)
    model = TIMM[name]().train()
    optimizer = build_optimizer(lambda groups: torch.optim.SGD(groups, lr=0.5), model)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for _ in range(2):  # the first step leaves one of the two matrices of LoRA as it is
        optimizer.zero_grad()
        model(patches()).square().sum().backward()
        optimizer.step()
        model.eval()
        model.train()
    changed = {key for key, v in model.state_dict().items() if not torch.equal(v, before[key])}
    assert {"head.weight", "head.bias"} <= changed
    assert any(key.startswith("backbone.") for key in changed) == (model.tune != "head")
    if model.tune == "lora":
        assert all("lora_" in key or key.startswith("head.") for key in changed)
        assert {"lora_A", "lora_B"} <= {part for key in changed for part in key.split(".")}


@pytest.mark.parametrize(
    ("name", "number", "first"),
    [
        ("test_efficientnet", 0, ()),
        ("test_efficientnet", 2, ("conv_stem.", "bn1.", "blocks.0.")),
        ("test_vit", 2, ("cls_token", "pos_embed", "patch_embed.", "blocks.0.")),
    ],
)
def test_the_first_layers_stay_as_published(name: str, number: int, first: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    model = TimmClassifier(name, frozen_layers=number).train()
    optimizer = build_optimizer(lambda groups: torch.optim.SGD(groups, lr=0.5), model)
    before = {key: value.clone() for key, value in model.backbone.state_dict().items()}
    model(patches()).square().sum().backward()
    optimizer.step()
    after = model.backbone.state_dict()
    changed = {key for key, value in before.items() if not torch.equal(after[key], value)}
    assert not any(key.startswith(first) for key in changed)
    # A bias has no gradient where a normalization removes it.
    weights = {key for key in before if key.endswith((".weight", "running_mean"))}
    assert {key for key in weights if not key.startswith(first)} <= changed


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (r"blocks\.5\..*", ["attn.proj", "attn.qkv", "mlp.fc1", "mlp.fc2"]),
        (r".*5\.attn\.qkv", ["attn.qkv"]),
        (["blocks.5.mlp.fc1"], ["mlp.fc1"]),
    ],
    ids=str,
)
def test_lora_is_added_where_the_targets_match(targets: Any, expected: list[str]) -> None:
    model = TimmClassifier("test_vit", tune="lora", lora_rank=3, lora_targets=targets)
    shapes = {key: value.shape for key, value in model.state_dict().items() if "lora_" in key}
    found = {key.removeprefix("backbone.").partition(".lora_")[0] for key in shapes}
    assert sorted(found) == sorted(model.lora_targets) == [f"blocks.5.{each}" for each in expected]
    assert all(3 in shape for shape in shapes.values())


def test_new_lora_changes_no_logit() -> None:
    torch.manual_seed(0)
    model = TimmClassifier("test_vit", size=160).eval()
    with_lora = TimmClassifier("test_vit", size=160, tune="lora").eval()
    load_pretrained(with_lora, model.backbone_state(), "model")
    with_lora.head.load_state_dict(model.head.state_dict())
    torch.testing.assert_close(with_lora(patches()), model(patches()))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"name": "eva02_tiny_patch14_224", "lora_targets": ".*qkv"}, "blocks.0.attn.qkv"),
        ({"lora_targets": "nothing"}, "lora_targets=nothing"),
        ({"lora_targets": ["qkv"]}, "lora_targets="),
        ({"lora_targets": "("}, "lora_targets=("),
        ({"size": 97}, "97"),
        ({"tune": "all"}, "tune=all"),
        ({"interpolation": "nearest"}, "interpolation=nearest"),
        ({"name": "crossvit_9_240", "native_size": 240}, "crossvit_9_240"),
        ({"arguments": {"block_fn": "os.system"}}, "arguments.block_fn='os.system'"),
        ({"arguments": {"block_fn": "system"}}, "block_fn"),
        ({"arguments": {"mlp_layer": "os.system"}}, "arguments.mlp_layer"),
        ({"arguments": {"mlp_layer": "Attention"}}, "mlp_layer=Attention"),
        ({"arguments": {"checkpoint_path": "/etc/passwd"}}, "arguments.checkpoint_path"),
        ({"arguments": {"checkpoint_path": "passwd"}}, "arguments.checkpoint_path"),
        ({"arguments": {"pretrained_cfg": {"file": "x"}}}, "arguments.pretrained_cfg"),
        ({"arguments": {"pretrained_cfg_overlay": {}}}, "arguments.pretrained_cfg_overlay"),
        ({"arguments": {"pretrained": True}}, "arguments.pretrained"),
        ({"arguments": {"in_chans": 1}}, "arguments.in_chans"),
        ({"arguments": {"depth": {"_target_": "os.system"}}}, "arguments.depth"),
        ({"arguments": {"depth": ["a", ["b"]]}}, "arguments.depth"),
        ({"arguments": {"act_layer": "nothing"}}, "nothing"),
        ({"arguments": {"num_heads": 0}}, "num_heads"),
        ({"arguments": {"unknown": 1}}, "unknown"),
        ({"name": "hf-hub:evil/x"}, "hf-hub:evil/x"),
        ({"name": "local-dir:/etc"}, "local-dir:/etc"),
        ({"name": "../x"}, "../x"),
        ({"name": "/etc/passwd"}, "/etc/passwd"),
        ({"name": ""}, "name="),
    ],
    ids=str,
)
def test_an_argument_that_does_not_fit_is_a_value_error(
    arguments: dict[str, Any], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.system", lambda *_: pytest.fail("a command was run"))
    given: dict[str, Any] = {"name": "test_vit", "tune": "lora"} | arguments
    with pytest.raises(ValueError) as caught:
        TimmClassifier(**given)
    assert named in str(caught.value)
    description = given | {"_target_": "pcam_lightning.models.TimmClassifier"}
    with pytest.raises(InputError) as reported:
        build_network(description, "metadata.json: model")
    text = str(reported.value)
    assert text.startswith("metadata.json: model") and "\n" not in text
