"""Dependence of a network on the colors of the stain."""

import torch
from torch import Tensor, nn

from pcam_lightning.engine.augment import StainJitter

SEED = 0


class StainJittered(nn.Module):
    """Network that gets every patch in random stain colors and a random orientation.

    They are the same in every evaluation with the same batch size, so that networks compare.

    Args:
        model: maps uint8 [B, 96, 96, 3] to logits [B].
        strength: of `StainJitter`.
    """

    def __init__(self, model: nn.Module, strength: float) -> None:
        super().__init__()
        self.model, self.jitter = model, StainJitter(strength)
        self._generator: torch.Generator | None = None

    def forward(self, image: Tensor) -> Tensor:
        """Map uint8 [B, 96, 96, 3] to logits [B]."""
        if self._generator is None:
            self._generator = torch.Generator(image.device).manual_seed(SEED)
        return self.model(self.jitter(image, self._generator))
