"""Test-time augmentation as a network."""

from torch import Tensor, nn


class D4TTA(nn.Module):
    """Network that averages the logits of a model over the eight orientations of each patch.

    Tissue has no preferred orientation: all flips and quarter turns are equally valid. Averaging
    logits, not probabilities, gives a logit again.

    Args:
        model: maps uint8 [B, 96, 96, 3] to logits [B].
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        """Map uint8 [B, H, W, 3] with H = W to logits [B], at eight times the cost of `model`."""
        # One orientation at a time needs no more memory than the model itself.
        total = sum(self.model(view.contiguous()).float() for view in orientations(image))
        return total / 8  # type: ignore[operator]


def orientations(image: Tensor) -> list[Tensor]:
    """Return the eight flips and quarter turns of [B, H, W, C] with H = W; the first is `image`."""
    turned = image.transpose(1, 2)
    return [
        view
        for upright in (image, turned)
        for view in (upright, upright.flip(1), upright.flip(2), upright.flip(1, 2))
    ]
