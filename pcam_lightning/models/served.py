"""A network as it is used: patches in, probabilities out."""

import torch
from torch import Tensor, nn


class Served(nn.Module):
    """Network that returns calibrated probabilities. Normalization and calibration are inside.

    Args:
        network: maps uint8 [B, 96, 96, 3] to logits [B].
        temperature: divides the logits (see `metrics.calibration`); 1 changes nothing.
        prior_offset: added to the logits before.
    """

    def __init__(
        self, network: nn.Module, temperature: float = 1.0, prior_offset: float = 0.0
    ) -> None:
        super().__init__()
        self.network, self.temperature, self.prior_offset = network, temperature, prior_offset

    def forward(self, image: Tensor) -> Tensor:
        """Map uint8 [B, 96, 96, 3] to the probability of tumour, float32 [B]."""
        return torch.sigmoid((self.network(image).float() + self.prior_offset) / self.temperature)
