"""Random numbers and smooth random fields, one for each patch or sprite."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Range = tuple[float, float]

SIZE = 96
"""Height and width of a patch in pixels; one pixel is about 1 micron."""


def varier(rng: np.random.Generator, n: int) -> Callable[[float, float], Floats]:
    """Return a function that draws a number between two bounds for each of n images: [n, 1, 1]."""
    return lambda low, high: rng.uniform(low, high, (n, 1, 1)).astype(np.float32)


def smooth_noise(rng: np.random.Generator, n: int, cell: float, size: int = SIZE) -> Floats:
    """Draw random fields [n, size, size], mean 0, deviation 1, features `cell` pixels wide."""
    knots = np.arange(-cell, size + 2 * cell, cell)
    weights = np.exp(-((np.arange(size)[:, None] - knots) ** 2) / (2 * (0.6 * cell) ** 2))
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    weights = weights.astype(np.float32)
    return weights @ rng.standard_normal((n, len(knots), len(knots)), np.float32) @ weights.T
