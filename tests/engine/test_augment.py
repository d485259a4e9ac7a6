import torch
from torchvision.transforms.v2 import functional as F

from pcam_lightning.engine.augment import (
    Identity,
    RandomD4,
    StainJitter,
    look_up_batch,
    look_up_each,
    orient_batch,
    orient_each,
)


def patches(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 96, 96, 3), dtype=torch.uint8, generator=generator)


def generator(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def orientations(image: torch.Tensor) -> list[torch.Tensor]:
    """Return the eight orientations of one [H, W, 3] patch, made by torchvision."""
    upright = image.permute(2, 0, 1)
    turned = [F.rotate(upright, 90 * turns) for turns in range(4)]
    both = turned + [F.horizontal_flip(picture) for picture in turned]
    return [picture.permute(1, 2, 0) for picture in both]


def test_the_eight_orientations_are_equally_frequent() -> None:
    image = patches(1)[:, :8, :8].expand(2000, -1, -1, -1)
    turned = RandomD4()(image, generator())
    choices = torch.stack(orientations(image[0]))
    matches = (choices[None] == turned[:, None]).flatten(2).all(2)  # [2000, 8]
    assert (matches.sum(1) == 1).all()
    assert (matches.sum(0) - 250).abs().max() < 75  # five standard deviations


def test_stain_jitter_by_its_formula() -> None:
    """Each channel x of a uniform patch becomes 256 ((x + 1) / 256)^scale exp(-shift) - 1."""
    strength = 0.3
    image = torch.tensor([200, 120, 180], dtype=torch.uint8).expand(64, 96, 96, 3).contiguous()
    stained = StainJitter(strength)(image, generator())
    assert stained.dtype == torch.uint8
    again = generator()
    torch.randint(8, (64, 1, 1, 1), generator=again)  # the orientations are drawn first
    noise = torch.rand((2, 64, 1, 1, 3), generator=again) * 2 - 1
    value = (image[:, :1, :1].double() + 1) / 256
    expected = 256 * value ** (1 + strength * noise[0]) * torch.exp(-strength / 4 * noise[1]) - 1
    assert (stained[:, :1, :1] - expected.clamp(0, 255)).abs().max() < 0.51
    assert stained.float().std(0).max() > 5


def test_zero_strength_only_changes_the_orientation() -> None:
    image = patches(8)
    assert torch.equal(StainJitter(0.0)(image, generator()), RandomD4()(image, generator()))


def test_the_same_generator_state_gives_the_same_patches() -> None:
    image = patches(8)
    assert torch.equal(StainJitter()(image, generator()), StainJitter()(image, generator()))
    assert not torch.equal(StainJitter()(image, generator(1)), StainJitter()(image, generator(2)))
    assert Identity()(image, generator()) is image


def test_a_batch_changes_as_its_patches_one_by_one() -> None:
    """GPUs change whole batches, CPUs one patch after another."""
    image, choice = patches(16), torch.arange(16).view(-1, 1, 1, 1) % 8
    table = torch.randint(0, 256, (16, 256, 3), dtype=torch.uint8, generator=generator())
    for batch in (image, image.transpose(1, 2)):
        assert torch.equal(orient_each(batch, choice), orient_batch(batch, choice))
        assert torch.equal(look_up_each(table, batch), look_up_batch(table, batch))
