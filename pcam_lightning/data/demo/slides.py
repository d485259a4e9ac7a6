"""Slides of the demo set: stains, scanner white, focus and share of tumour.

Slides are stained by one laboratory, by a second one, or in between. In every split some slides are
pale and some dark, and some are out of focus. A third laboratory, which also focuses badly, stained
some test slides and no other ones, so that a model meets them for the first time when it is tested.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pcam_lightning.data.demo.noise import Floats

SLIDES = {"train": 32, "valid": 12, "test": 16}
OUT_OF_FOCUS = {"train": 4, "valid": 3, "test": 3}
"""Slides of the first two laboratories that are out of focus."""
THIRD_LABORATORY = {"train": 0, "valid": 0, "test": 4}
BLUR = np.array([(2.3, 2.8), (1.2, 1.8), (0, 0)])
"""Smallest and largest blur of the third laboratory, of slides out of focus, and of others."""
STRENGTH = 0.7, 1.35
"""Strength of both stains on the palest and on the darkest slides."""

# Optical density of the two stains in R, G, B; hematoxylin after Ruifrok & Johnston 2001, eosin
# adjusted by eye. The second laboratory stains redder, as the two hospitals of CAMELYON16 differ.
HEMATOXYLIN, HEMATOXYLIN_RED = (0.650, 0.704, 0.286), (0.53, 0.70, 0.47)
EOSIN, EOSIN_RED = (0.19, 0.99, 0.19), (0.22, 0.86, 0.46)
# The third laboratory stains nuclei blue and the rest orange.
HEMATOXYLIN_THIRD, EOSIN_THIRD = (0.76, 0.60, 0.22), (0.10, 0.84, 0.53)


class Slides(NamedTuple):
    """Appearance of n slides or patches, float32."""

    hematoxylin: Floats
    """[n, 3]: optical density per unit of stain, in R, G, B."""
    eosin: Floats
    """[n, 3]: the same of the other stain."""
    white: Floats
    """[n, 3]: RGB of empty glass, 225..252."""
    blur: Floats
    """[n]: typical deviation of the Gaussian blur in pixels; 0 in focus."""
    tumour: Floats
    """[n]: share of positive patches, 0.25..0.75, half of all on average."""

    def of(self, which: NDArray[np.int64] | slice) -> "Slides":
        """Return the slides at these positions, such as the slide of each patch."""
        return Slides(*(values[which] for values in self))


def draw_slides(rng: np.random.Generator, split: str) -> Slides:
    """Draw the slides of a split.

    Slides that are stained about equally strongly have opposite shares of tumour, and so have the
    slides of a group (third laboratory, out of focus): how a slide looks does not tell its share.
    """
    n, third = SLIDES[split], THIRD_LABORATORY[split]
    # Slides of the third laboratory come first, then those out of focus, then the others.
    group = np.repeat((0, 1, 2), (third, OUT_OF_FOCUS[split], n - third - OUT_OF_FOCUS[split]))
    red = rng.beta(0.35, 0.35, (n, 1))
    strength = _balanced(rng, n, *STRENGTH)
    strength[:third] = _balanced(rng, third, 0.7, 0.9)

    def stain(usual: ArrayLike, redder: ArrayLike, of_third: ArrayLike) -> Floats:
        color = np.asarray(usual) * (1 - red) + np.asarray(redder) * red
        color = np.where(group[:, None] == 0, np.asarray(of_third), color)
        color = np.clip(color + rng.normal(0, 0.02, (n, 3)), 0.03, None)
        color /= np.linalg.norm(color, axis=1, keepdims=True)
        return color * (strength * rng.uniform(0.85, 1.15, n))[:, None]

    white = rng.normal(244, 4, (n, 1)) + rng.normal(0, 1.5, (n, 3))
    slides = Slides(
        hematoxylin=stain(HEMATOXYLIN, HEMATOXYLIN_RED, HEMATOXYLIN_THIRD),
        eosin=stain(EOSIN, EOSIN_RED, EOSIN_THIRD),
        white=np.clip(white, 225, 252),
        blur=rng.uniform(*BLUR[group].T),
        tumour=_opposite(rng, strength, group),
    )
    return Slides(*(values.astype(np.float32) for values in slides)).of(rng.permutation(n))


def _balanced(rng: np.random.Generator, n: int, low: float, high: float) -> NDArray[np.float64]:
    """Return n factors from `low` to `high` in random order, equally spaced as logarithms."""
    return rng.permutation(np.geomspace(low, high, n))


def _opposite(
    rng: np.random.Generator, strength: NDArray[np.float64], group: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Draw shares of tumour [n], opposite for neighbors in the order of strength in their group."""
    share = np.full(len(group), 0.5)
    for each in np.unique(group):
        members = np.flatnonzero(group == each)
        members = members[strength[members].argsort()]
        pairs = len(members) // 2
        away = rng.permutation(np.linspace(0, 0.25, pairs + 1)[1:]) * rng.choice((-1, 1), pairs)
        share[members[: 2 * pairs : 2]] += away
        share[members[1 : 2 * pairs : 2]] -= away
    return share
