"""A multilayer perceptron on raw pixels: the baseline for image networks."""

from collections.abc import Sequence

from torch import Tensor, nn

from pcam_lightning.models.normalize import Normalize


class MLP(nn.Module):
    """Fully connected layers with ReLU and dropout on all 96 * 96 * 3 pixel values.

    Args:
        hidden: units of each hidden layer.
        dropout: share of hidden units dropped while training, in [0, 1).
    """

    def __init__(self, hidden: Sequence[int] = (64, 32), dropout: float = 0.2) -> None:
        super().__init__()
        self.normalize = Normalize()
        layers: list[nn.Module] = []
        features = 96 * 96 * 3
        for units in hidden:
            layers += [nn.Linear(features, units), nn.ReLU(inplace=True), nn.Dropout(dropout)]
            features = units
        self.layers = nn.Sequential(*layers, nn.Linear(features, 1))

    def forward(self, image: Tensor) -> Tensor:
        """Map uint8 [B, 96, 96, 3] to logits [B]."""
        # NHWC is the order in memory; another order would copy every pixel.
        pixels = self.normalize(image).permute(0, 2, 3, 1).flatten(1)
        return self.layers(pixels).squeeze(1)
