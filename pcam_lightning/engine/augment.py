"""Random augmentation of training batches on any device.

On a CPU one patch after another is changed, because a patch stays in the processor's cache, which
makes it several times faster than one operation on the whole batch. The values are the same.
"""

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
        return orient_each(image, choice) if image.is_cpu else orient_batch(image, choice)


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
        return look_up_each(table, image) if image.is_cpu else look_up_batch(table, image)


def orient_batch(image: Tensor, choice: Tensor) -> Tensor:
    """Flip and transpose the patches of a batch.

    Args:
        image: [B, H, W, C] with H = W.
        choice: int64 [B, 1, 1, 1]; its bits select a flip of the rows, a flip of the columns, and
            then the exchange of rows and columns.
    """
    image = torch.where((choice & 1).bool(), image.flip(1), image)
    image = torch.where((choice & 2).bool(), image.flip(2), image)
    return torch.where((choice & 4).bool(), image.transpose(1, 2), image)


def orient_each(image: Tensor, choice: Tensor) -> Tensor:
    """Return the same as `orient_batch`."""
    oriented = torch.empty_like(image)
    for patch, number, target in zip(image, choice.flatten().tolist(), oriented, strict=True):
        flipped = patch.flip([axis for axis in (0, 1) if number & (1 << axis)])
        target.copy_(flipped.transpose(0, 1) if number & 4 else flipped)
    return oriented


def look_up_batch(table: Tensor, image: Tensor) -> Tensor:
    """Replace each value of a batch by its entry in a table.

    Args:
        table: uint8 [B, 256, 3], for each patch and channel.
        image: uint8 [B, H, W, 3].
    """
    return table.gather(1, image.reshape(len(image), -1, 3).long()).view(image.shape)


def look_up_each(table: Tensor, image: Tensor) -> Tensor:
    """Return the same as `look_up_batch`."""
    changed = torch.empty_like(image, memory_format=torch.contiguous_format)
    by_channel = table.transpose(1, 2).flatten(1)
    start = torch.tensor([0, 256, 512], dtype=torch.int32).repeat(image.shape[1] * image.shape[2])
    for patch, values, target in zip(image, by_channel, changed, strict=True):
        places = patch.flatten().int().add_(start)
        torch.index_select(values, 0, places, out=target.view(-1))
    return changed
