"""torchvision's networks, adapted to 96 x 96 patches and one logit.

Made for 224 x 224 images, they reduce their input 32 times: a patch would end as a 3 x 3 map, too
coarse for a label that depends on the center third. Without the stem's max-pooling it is 6 x 6.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pcam_lightning.models.normalize import Normalize
from pcam_lightning.models.pretrained import copy_state


class TorchvisionClassifier(nn.Module):
    """Adapted torchvision network that maps uint8 [B, 96, 96, 3] to logits [B]."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.normalize = Normalize()
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, image: Tensor) -> Tensor:
        """Map uint8 [B, 96, 96, 3] to logits [B]."""
        return self.network(self.normalize(image)).squeeze(1)

    def backbone_state(self) -> dict[str, Tensor]:
        """Return weights and buffers without the last layer's, by torchvision's names.

        They share the memory of the network's.
        """
        state = self.network.state_dict(keep_vars=True)
        return {key: value for key, value in state.items() if not self.is_classifier(key)}

    def is_classifier(self, key: str) -> bool:
        """Return whether a weight of this name belongs to the last layer."""
        return key.startswith(("fc.", "classifier."))

    def load_backbone(self, state: Mapping[str, Tensor]) -> None:
        """Copy published weights.

        Raises:
            ValueError: a name is missing, or a shape differs.
        """
        copy_state(state, self.backbone_state())


def resnet18() -> TorchvisionClassifier:
    """Return ResNet-18 (He et al. 2016)."""
    return _resnet("resnet18")


def resnet50() -> TorchvisionClassifier:
    """Return ResNet-50 (He et al. 2016)."""
    return _resnet("resnet50")


def densenet121(dropout: float = 0.0) -> TorchvisionClassifier:
    """Return DenseNet-121 (Huang et al. 2017); `dropout` acts after each dense layer."""
    network = _build("densenet121", drop_rate=dropout)
    network.features.pool0 = nn.Identity()
    return TorchvisionClassifier(network)


def _resnet(name: str) -> TorchvisionClassifier:
    network = _build(name)
    network.maxpool = nn.Identity()
    return TorchvisionClassifier(network)


def _build(name: str, **options: Any) -> Any:
    from torchvision import models  # it imports torch._dynamo: a second for every other network

    return getattr(models, name)(num_classes=1, **options)
