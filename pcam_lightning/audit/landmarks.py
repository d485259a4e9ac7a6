"""Landmarks of patches: points with a code that survives turns, flips, shifts, light and JPEG.

A landmark is an extremum of a band-passed gray image, such as a nucleus. Its code describes the
surrounding 25 x 25 pixels of a blurred gray image, on every second pixel, with zero mean and unit
deviation. The 8 orientations of a square exchange up to 8 pixels with each other, so these pixels
are sorted: the description is the same in every orientation. A whitened random projection of it
keeps 128 signs (Charikar 2002), so that similar surroundings share whole words of 32 bits.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from pcam_lightning.data.files import PATCH_SHAPE

SIDE = PATCH_SHAPE[0]
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Weights of red, green and blue in brightness (ITU-R BT.601), which JPEG preserves best."""
FINE, COARSE = 1.5, 4.0
"""Deviations of the Gaussians of the band-pass, in pixels: between JPEG noise and whole cells."""
RADIUS, STRIDE = 12, 2
"""Half the side of a surrounding, and the distance of its samples, in pixels."""
CELLS, PER_CELL = 3, 3
"""Landmarks are the strongest extrema of each cell of a grid, so that any overlap has some."""
COUNT = CELLS * CELLS * PER_CELL
WEAKEST = 8.0
"""Smallest band-passed value of a landmark, in gray levels; JPEG noise is weaker."""
BLOCKS, STRUCTURED, FEWEST_BLOCKS = 4, 4.0, 6
"""A patch is compared if at least 6 of its 4 x 4 blocks have a deviation of 4 gray levels."""
DIMENSIONS, WORDS = 64, 4
BATCH = 128
"""Patches described together, which bounds the memory."""


@dataclass(frozen=True)
class Landmarks:
    """Up to `COUNT` landmarks of each of N patches."""

    position: NDArray[np.uint8]
    """Row and column, [N, COUNT, 2]; (0, 0) where a patch has fewer landmarks."""
    code: NDArray[np.uint32]
    """The 128 signs as four words, [N, COUNT, 4]."""
    compared: NDArray[np.bool_]
    """True for patches with enough structure to be compared, [N]; others have no landmarks."""

    @staticmethod
    def concatenate(parts: Iterable["Landmarks"]) -> "Landmarks":
        """Return the landmarks of all patches of all parts."""
        fields = [(part.position, part.code, part.compared) for part in parts]
        return Landmarks(*(np.concatenate(each) for each in zip(*fields, strict=True)))


class LandmarkCoder:
    """Find landmarks and code them by a projection that was fitted to some of the patches."""

    def __init__(self, patches: NDArray[np.uint8], seed: int = 0) -> None:
        """Fit the projection to patches, uint8 [N, 96, 96, 3]; the seed draws its directions."""
        parts = [
            _describe(blurred, position)[_found(position)]
            for start in range(0, len(patches), BATCH)
            for blurred, band in [_filter(patches[start : start + BATCH])]
            for position in [_extrema(band)]
        ]
        length = (2 * (RADIUS // STRIDE) + 1) ** 2
        samples = np.concatenate([np.zeros((2, length), np.float32), *parts])
        values, vectors = np.linalg.eigh(np.cov(samples.T))
        values, vectors = values[::-1][:DIMENSIONS], vectors[:, ::-1][:, :DIMENSIONS]
        # The floor keeps directions without variance, as in a data set of blank patches, finite.
        whitening = vectors / np.sqrt(np.maximum(values, 1e-6 * max(values[0], 1e-6)))
        rng = np.random.default_rng(seed)
        shape = (32 * WORDS // DIMENSIONS, DIMENSIONS, DIMENSIONS)
        rotations = np.linalg.qr(rng.normal(size=shape))[0]
        self._projection = np.concatenate(whitening @ rotations, axis=1).astype(np.float32)
        self._center = (samples.mean(axis=0) @ self._projection).astype(np.float32)

    def __call__(self, patches: NDArray[np.uint8]) -> Landmarks:
        """Return the landmarks of patches, uint8 [N, 96, 96, 3]."""
        return Landmarks.concatenate(
            self._code(patches[start : start + BATCH]) for start in range(0, len(patches), BATCH)
        )

    def _code(self, patches: NDArray[np.uint8]) -> Landmarks:
        blurred, band = _filter(patches)
        position = _extrema(band)
        compared = structured_blocks(band) >= FEWEST_BLOCKS
        position[~compared] = 0
        signs = _describe(blurred, position) @ self._projection > self._center
        code = np.packbits(signs, axis=-1).view(np.uint32)
        return Landmarks(position, code, compared)


def band_passed(patches: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return band-passed gray patches, in gray levels. uint8 [N, 96, 96, 3] to [N, 96, 96]."""
    result = np.empty(patches.shape[:3], np.float32)
    for start in range(0, len(patches), BATCH):
        result[start : start + BATCH] = _filter(patches[start : start + BATCH])[1]
    return result


def structured_blocks(band: NDArray[np.float32]) -> NDArray[np.int64]:
    """Count the structured of 4 x 4 blocks of band-passed patches. [N, 96, 96] to [N]."""
    block = SIDE // BLOCKS
    blocks = band.reshape(-1, BLOCKS, block, BLOCKS, block)
    return (blocks.std(axis=(2, 4)) >= STRUCTURED).sum(axis=(1, 2))


def _filter(patches: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the blurred and the band-passed gray images, each float32 [N, 96, 96]."""
    gray = patches.astype(np.float32) @ LUMA
    fine, coarse = (
        (matrix @ gray @ matrix.T).astype(np.float32, copy=False) for matrix in _GAUSSIANS
    )
    return fine, fine - coarse


def _extrema(band: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return the strongest extrema within 5 x 5 pixels, in each cell; uint8 [N, COUNT, 2]."""
    reach = 2
    inner = slice(RADIUS, SIDE - RADIUS)
    core, around = band[:, inner, inner], band[:, RADIUS - reach : SIDE - RADIUS + reach]
    around = around[:, :, RADIUS - reach : SIDE - RADIUS + reach]
    extreme, width = np.zeros(core.shape, bool), core.shape[1]
    for pool in (np.maximum, np.minimum):
        columns = reduce(pool, (around[:, :, n : n + width] for n in range(2 * reach + 1)))
        extreme |= core == reduce(pool, (columns[:, n : n + width] for n in range(2 * reach + 1)))
    strength = np.where(extreme, np.abs(core), 0)
    cell = width // CELLS
    used = strength[:, : cell * CELLS, : cell * CELLS]
    cells = used.reshape(-1, CELLS, cell, CELLS, cell).swapaxes(2, 3)
    cells = cells.reshape(len(band), CELLS * CELLS, cell * cell)
    place = np.argpartition(-cells, PER_CELL, axis=2)[:, :, :PER_CELL]
    corner = cell * np.stack(np.divmod(np.arange(CELLS * CELLS), CELLS), axis=-1)[:, None]
    position = np.stack(np.divmod(place, cell), axis=-1) + corner + RADIUS
    position[np.take_along_axis(cells, place, axis=2) < WEAKEST] = 0
    return position.reshape(len(band), COUNT, 2).astype(np.uint8)


def _describe(blurred: NDArray[np.float32], position: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the descriptions of the surroundings, float32 [N, COUNT, samples]."""
    offset = np.arange(-RADIUS, RADIUS + 1, STRIDE)
    # Absent landmarks get some description, which nobody reads.
    center = np.maximum(position.astype(np.int64), RADIUS)
    rows = center[..., 0, None, None] + offset[:, None]
    columns = center[..., 1, None, None] + offset
    sampled = blurred[np.arange(len(blurred))[:, None, None, None], rows, columns]
    sampled = sampled.reshape(*position.shape[:2], -1)
    sampled = sampled - sampled.mean(axis=-1, keepdims=True)
    sampled /= sampled.std(axis=-1, keepdims=True) + 1e-6
    return np.concatenate([np.sort(sampled[..., orbit]) for orbit in _ORBITS], axis=-1)


def _found(position: NDArray[np.uint8]) -> NDArray[np.bool_]:
    return position[..., 0] > 0


def _gaussian(deviation: float) -> NDArray[np.float32]:
    """Return the matrix that blurs a line of pixels; at the border it averages fewer pixels."""
    distance = np.subtract.outer(np.arange(SIDE), np.arange(SIDE))
    weights = np.exp(-0.5 * (distance / deviation) ** 2)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def _orbits() -> list[NDArray[np.int64]]:
    """Return the sets of samples that the 8 orientations exchange with each other."""
    middle = RADIUS // STRIDE
    y, x = np.abs(np.indices((2 * middle + 1, 2 * middle + 1)) - middle).reshape(2, -1)
    _, orbit = np.unique(np.minimum(y, x) * (middle + 1) + np.maximum(y, x), return_inverse=True)
    return [np.flatnonzero(orbit == each) for each in range(orbit.max() + 1)]


_GAUSSIANS = (_gaussian(FINE), _gaussian(COARSE))
_ORBITS = _orbits()
