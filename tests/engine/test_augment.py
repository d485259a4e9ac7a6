import torch
from torchvision.transforms.v2 import functional as F

from pcam_lightning.engine.augment import Identity, RandomD4, StainJitter


def patches(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 96, 96, 3), dtype=torch.uint8, generator=generator)


def generator(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def orientations(image: torch.Tensor) -> list[torch.Tensor]:
    """The dihedral group's eight pictures of one [H, W, 3] patch, made by torchvision."""
    upright = image.permute(2, 0, 1)
    turned = [F.rotate(upright, 90 * turns) for turns in range(4)]
    both = turned + [F.horizontal_flip(picture) for picture in turned]
    return [picture.permute(1, 2, 0) for picture in both]


def test_dihedral_gives_each_of_the_eight_orientations_equally_often() -> None:
    image = patches(1).expand(2000, -1, -1, -1)
    turned = RandomD4()(image, generator())
    choices = torch.stack(orientations(image[0]))
    found = [int((choices == patch).flatten(1).all(1).nonzero().item()) for patch in turned]
    counts = torch.bincount(torch.tensor(found), minlength=8)
    assert (counts - 250).abs().max() < 75  # five standard deviations


def test_dihedral_turns_each_patch_by_itself() -> None:
    image = patches(16)
    turned = RandomD4()(image, generator())
    for before, after in zip(image, turned, strict=True):
        assert any(torch.equal(choice, after) for choice in orientations(before))


def test_stain_by_hand() -> None:
    """Of a uniform patch, each channel becomes 256 * ((x + 1) / 256)^scale * exp(-shift) - 1."""
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


def test_no_stain_change_is_the_dihedral_group_alone() -> None:
    image = patches(8)
    assert torch.equal(StainJitter(0.0)(image, generator()), RandomD4()(image, generator()))


def test_the_same_generator_state_gives_the_same_patches() -> None:
    image = patches(8)
    assert torch.equal(StainJitter()(image, generator()), StainJitter()(image, generator()))
    assert not torch.equal(StainJitter()(image, generator(1)), StainJitter()(image, generator(2)))
    assert Identity()(image, generator()) is image
