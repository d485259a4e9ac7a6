"""A network as it is used: patches in, probabilities out."""

import torch
from torch import Tensor, nn


class Served(nn.Module):
    """Network that returns calibrated probabilities. Normalization and temperature are inside.

    Args:
        network: maps uint8 [B, 96, 96, 3] to logits [B].
        temperature: divides the logits (see `metrics.calibration`); 1 changes nothing.
    """

    def __init__(self, network: nn.Module, temperature: float = 1.0) -> None:
        super().__init__()
        self.network, self.temperature = network, temperature

    def forward(self, image: Tensor) -> Tensor:
        """Map uint8 [B, 96, 96, 3] to the probability of tumour, float32 [B]."""
        return torch.sigmoid(self.network(image).float() / self.temperature)
