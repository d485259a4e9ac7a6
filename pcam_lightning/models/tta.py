"""Test-time augmentation as a network."""

from torch import Tensor, nn


class D4TTA(nn.Module):
    """The mean logit of a network over the eight flips and quarter turns of each patch.

    Tissue has no up and no left, so all eight are equally good views of the same thing. Logits are
    averaged, not probabilities, so that the result is a logit like any other.

    Args:
        model: uint8 [B, 96, 96, 3] to logits [B].
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        """uint8 [B, H, W, 3] with H = W to logits [B]; eight times the work of `model`."""
        # One after another, so that it needs no more memory than the network itself.
        total = sum(self.model(view.contiguous()).float() for view in orientations(image))
        return total / 8  # type: ignore[operator]


def orientations(image: Tensor) -> list[Tensor]:
    """The dihedral group of the square on [B, H, W, C] with H = W; views, the first is `image`."""
    turned = image.transpose(1, 2)
    return [
        view
        for upright in (image, turned)
        for view in (upright, upright.flip(1), upright.flip(2), upright.flip(1, 2))
    ]
