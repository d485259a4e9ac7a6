"""Every network of the project, with small stand-ins for the families of timm."""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from pcam_lightning import models

SWIN = {"embed_dim": 12, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 4, 8]}
"""Sizes of a small Swin transformer, whose maps have the channels last."""


def timm(name: str, tune: str = "full", **arguments: Any) -> partial[models.TimmClassifier]:
    return partial(models.TimmClassifier, name, arguments, tune=tune, lora_rank=2)


TIMM: dict[str, partial[models.TimmClassifier]] = {
    f"timm {family} {tune}": timm(name, tune, **arguments)
    for tune in ("full", "head", "lora")
    for family, name, arguments in (
        ("resnet", "test_resnet", {}),
        ("efficientnet", "test_efficientnet", {}),
        ("convnext", "test_convnext", {}),
        ("swin", "swin_tiny_patch4_window7_224", SWIN),
        ("vit with a class token", "test_vit", {}),
        ("vit with registers", "test_vit", {"reg_tokens": 4, "no_embed_class": True}),
        ("vit without a class token", "test_vit", {"class_token": False, "global_pool": "avg"}),
        ("vit without pooling", "test_vit", {"global_pool": ""}),
        ("vit of any size", "test_vit", {"dynamic_img_size": True}),
    )
}
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "mlp": models.MLP,
    "cnn": models.CNN,
    "p4m_cnn": models.P4MCNN,
    "resnet18": models.resnet18,
    "resnet50": models.resnet50,
    "densenet121": models.densenet121,
    **TIMM,
}
