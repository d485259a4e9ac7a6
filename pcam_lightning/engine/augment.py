"""Random changes of training patches, a whole batch at a time, on whatever device it is on."""

import torch
from torch import Tensor, nn


class Identity(nn.Module):
    """No augmentation."""

    def forward(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """Any image, to itself."""
        return image


class RandomD4(nn.Module):
    """Each patch in one of its eight orientations: tissue has no up and no left."""

    def forward(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """uint8 [B, H, W, 3] with H = W, to the same."""
        choice = torch.randint(8, (len(image), 1, 1, 1), generator=generator, device=image.device)
        image = torch.where((choice & 1).bool(), image.flip(1), image)
        image = torch.where((choice & 2).bool(), image.flip(2), image)
        return torch.where((choice & 4).bool(), image.transpose(1, 2), image)


class StainJitter(nn.Module):
    """Each patch in one of its eight orientations, stained a little differently.

    Laboratories and scanners differ in how strongly they stain and how they record color. In
    optical density, -log(transmitted light), where stain amounts add up (Beer-Lambert), each
    channel is scaled by a factor in 1 +- strength and moved by up to strength / 4; cf. Tellez et
    al. 2019, who found stain augmentation to be what carries over to unseen laboratories.

    Args:
        strength: half the range of the scaling factor, >= 0.
    """

    def __init__(self, strength: float = 0.25) -> None:
        super().__init__()
        self.strength = strength
        self.dihedral = RandomD4()

    def forward(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """uint8 [B, H, W, 3] with H = W, to the same."""
        image = self.dihedral(image, generator)
        shape = (2, len(image), 1, 3)
        noise = torch.rand(shape, generator=generator, device=image.device) * 2 - 1
        scale, shift = 1 + self.strength * noise[0], self.strength / 4 * noise[1]
        levels = torch.arange(256, device=image.device).view(1, 256, 1)
        density = -torch.log((levels + 1.0) / 256)
        light = torch.exp(-(scale * density + shift)) * 256 - 1
        # Once for each of the 256 levels of a patch's channel, and looked up for its pixels.
        table = light.round_().clamp_(0, 255).to(torch.uint8)
        levels = image.reshape(len(image), -1, 3).long()
        return table.gather(1, levels).view(image.shape)
