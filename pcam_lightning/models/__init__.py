"""Networks: uint8 [B, 96, 96, 3] patches in, logits [B] out."""

from pcam_lightning.models.cnn import CNN
from pcam_lightning.models.mlp import MLP
from pcam_lightning.models.normalize import Normalize
from pcam_lightning.models.p4m import P4MCNN
from pcam_lightning.models.timm import TimmClassifier
from pcam_lightning.models.torchvision import densenet121, resnet18, resnet50

__all__ = [
    "CNN",
    "MLP",
    "P4MCNN",
    "Normalize",
    "TimmClassifier",
    "densenet121",
    "resnet18",
    "resnet50",
]
