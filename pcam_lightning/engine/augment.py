"""Random augmentation of training batches on any device."""

import torch
from torch import Tensor, nn


class Identity(nn.Module):
    """No augmentation."""

    def forward(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """Return the image unchanged."""
        return image


class RandomD4(nn.Module):
    """Random orientation of each patch: one of eight flips and quarter turns."""

    def forward(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """Map uint8 [B, H, W, 3] with H = W to the same shape and dtype."""
        choice = torch.randint(8, (len(image), 1, 1, 1), generator=generator, device=image.device)
        image = torch.where((choice & 1).bool(), image.flip(1), image)
        image = torch.where((choice & 2).bool(), image.flip(2), image)
        return torch.where((choice & 4).bool(), image.transpose(1, 2), image)


class StainJitter(nn.Module):
    """Random orientation and stain variation of each patch.

    Laboratories and scanners differ in stain and color. In optical density, -log(transmitted
    light), amounts of stain add up (Beer-Lambert). There each channel is scaled by a factor in
    1 +- strength and shifted by up to strength / 4. Tellez et al. 2019 found that stain
    augmentation improves generalization to unseen laboratories.

    Args:
        strength: half the range of the scaling factor, >= 0.
    """

    def __init__(self, strength: float = 0.25) -> None:
        super().__init__()
        self.strength = strength
        self.dihedral = RandomD4()

    def forward(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """Map uint8 [B, H, W, 3] with H = W to the same shape and dtype."""
        image = self.dihedral(image, generator)
        shape = (2, len(image), 1, 3)
        noise = torch.rand(shape, generator=generator, device=image.device) * 2 - 1
        scale, shift = 1 + self.strength * noise[0], self.strength / 4 * noise[1]
        levels = torch.arange(256, device=image.device).view(1, 256, 1)
        density = -torch.log((levels + 1.0) / 256)
        light = torch.exp(-(scale * density + shift)) * 256 - 1
        # A table of all 256 levels per channel; pixels look up their value.
        table = light.round_().clamp_(0, 255).to(torch.uint8)
        levels = image.reshape(len(image), -1, 3).long()
        return table.gather(1, levels).view(image.shape)
