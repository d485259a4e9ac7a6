"""Synthetic patches of H&E-stained lymph node, the images of the demo set.

A patch has two maps of stain concentration, hematoxylin (nuclei) and eosin (everything else). The
Beer-Lambert law converts them to RGB. Nuclei are copies of sprites, small images drawn once per
set. All patches of a call are drawn together: the k-th nucleus of every patch is drawn at once.

Only the shape of the cells in the center determines the label (see `cells` and `nests`): tumour
cells and histiocytes have the same stain in the same pale cytoplasm, so mean color predicts almost
nothing. How difficult a patch is depends on its cells, and on its slide (see `slides`).
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from pcam_lightning.data.demo.cells import SPRITES, Sprites
from pcam_lightning.data.demo.nests import place_nests
from pcam_lightning.data.demo.noise import SIZE, Floats, smooth_noise, varier
from pcam_lightning.data.demo.slides import Slides

MARGIN = 16
"""Pixels around the canvas, so that the patch's edge can cut nuclei."""
INNER = slice(MARGIN, MARGIN + SIZE)


def draw_patches(
    rng: np.random.Generator, labels: NDArray[np.uint8], slides: Slides, sprites: Sprites
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Draw patches with these labels, uint8 [n], from the slides of n patches.

    Return the patches, uint8 [n, 96, 96, 3], and whether each contains any tumour, bool [n].
    """
    n = len(labels)
    vary = varier(rng, n)
    coarse, medium, fine, grain = (smooth_noise(rng, n, cell) for cell in (26.0, 11.0, 5.0, 2.4))
    stroma = (rng.random(n) < 0.3) * rng.uniform(0.5, 1, n)  # share of fibrous tissue
    direction = rng.uniform(0, np.pi, n)  # angle of its fibers
    glass = _glass(rng, coarse + 0.2 * medium)

    nuclei = np.zeros((n, SIZE + 2 * MARGIN, SIZE + 2 * MARGIN), np.float32)
    cytoplasm = np.zeros_like(nuclei)
    nests = place_nests(rng, labels)
    shape = (nests.shape * SPRITES).astype(int)
    _stamp(nuclei, sprites.lobed, shape, nests.row, nests.column, nests.here)
    which = rng.integers(0, SPRITES, shape.shape)
    _stamp(cytoplasm, sprites.cytoplasm, which, nests.row, nests.column, nests.here)
    cellularity = rng.beta(2.6, 0.9, n) * (1 - 0.6 * stroma)
    density = cellularity[:, None, None] + 0.15 * coarse + 0.12 * medium
    taken = (glass >= 0.3) | (cytoplasm[:, INNER, INNER] >= 0.62)
    _scatter_small_cells(rng, nuclei, sprites, density, taken, stroma > 0, direction)
    nuclei, cytoplasm = nuclei[:, INNER, INNER], np.minimum(1.25 * cytoplasm[:, INNER, INNER], 1)

    strands = np.exp(-12 * (medium + 0.5 * fine) ** 2)
    tissue = 1 - glass * (1 - cytoplasm) * (1 - 0.35 * strands)
    thickness = vary(0.7, 1.2)
    eosin = 0.24 + 0.18 * strands + 0.08 * medium + 0.11 * fine + 0.05 * coarse + 0.08 * grain
    waves = 1.6 * coarse + 0.9 * medium + 0.35 * fine
    eosin += stroma[:, None, None] * _fibers(direction, waves, coarse)
    eosin = np.clip(eosin, 0.02, None) * vary(0.7, 1.5)
    eosin = eosin * (1 - 0.6 * cytoplasm)
    eosin += cytoplasm * (0.26 + 0.08 * fine + 0.07 * grain) * vary(0.7, 1.3)
    hematoxylin = nuclei * (1.7 + 0.3 * grain) * thickness
    hematoxylin += np.clip(0.11 + 0.05 * fine + 0.05 * medium, 0, 1)
    hematoxylin += 0.1 * cytoplasm * vary(0.5, 1.5)
    hematoxylin = np.clip(hematoxylin, 0, None) * tissue
    eosin *= (1 - 0.3 * np.minimum(hematoxylin, 1)) * tissue * thickness
    eosin += 0.015 + 0.01 * coarse
    anywhere = np.asarray(nests.tumour.any(axis=1))
    return _transmit(rng, hematoxylin, eosin, slides), anywhere


def _glass(rng: np.random.Generator, field: Floats) -> Floats:
    """Draw the share of empty glass, 0..1: large in 6 % of patches, a gap in about 30 % more."""
    n = len(field)
    kind = rng.random(n)
    gap = np.where(kind < 0.35, rng.uniform(0.9, 1.8, n), 9)
    level = np.where(kind < 0.06, rng.uniform(-0.7, 0.3, n), gap).astype(np.float32)
    return np.clip((field - level[:, None, None]) * 7, 0, 1)


def _scatter_small_cells(
    rng: np.random.Generator,
    nuclei: Floats,
    sprites: Sprites,
    density: Floats,
    taken: NDArray[np.bool_],
    fibrous: NDArray[np.bool_],
    direction: NDArray[np.float64],
) -> None:
    """Draw lymphocytes, in fibrous patches mostly fibroblasts, on a jittered hexagonal grid."""
    n, pitch, per_row = len(density), 7.8, 14
    steps = np.arange(per_row)
    grid_y, grid_x = (grid.ravel() for grid in np.meshgrid(steps, steps, indexing="ij"))
    jitter = rng.uniform(-2.3, 2.3, (2, n, per_row**2))
    y = np.rint(pitch * grid_y - 2 + jitter[0]).astype(int)
    x = np.rint(pitch * (grid_x + 0.5 * (grid_y % 2)) - 2 + jitter[1]).astype(int)
    at = np.arange(n)[:, None], np.clip(y, 0, SIZE - 1), np.clip(x, 0, SIZE - 1)
    reach = SIZE + 6
    here = (rng.random(y.shape) < density[at]) & ~taken[at] & (y < reach) & (x < reach)
    thin = fibrous[:, None] & (rng.random(y.shape) < 0.7)
    _stamp(nuclei, sprites.lymphocyte, rng.integers(0, SPRITES, y.shape), y, x, here & ~thin)
    turn = (direction[:, None] + rng.normal(0, 0.22, y.shape)) * SPRITES / np.pi
    _stamp(nuclei, sprites.fibroblast, turn.astype(int) % SPRITES, y, x, here & thin)


def _fibers(direction: NDArray[np.float64], waves: Floats, coarse: Floats) -> Floats:
    """Return eosin in wavy bundles along `direction`: [n, 96, 96]."""
    cos, sin = (f(direction)[:, None, None].astype(np.float32) for f in (np.cos, np.sin))
    place = np.arange(SIZE, dtype=np.float32)
    phase = 0.42 * (place[:, None] * cos - place * sin) + waves
    return 0.22 * np.sin(phase) + 0.14 * np.sin(2.3 * phase + 2 * coarse) + 0.12


def _transmit(
    rng: np.random.Generator, hematoxylin: Floats, eosin: Floats, slides: Slides
) -> NDArray[np.uint8]:
    """Return the RGB image: white light through both stains, with blur and sensor noise."""
    # Focus varies within a slide.
    blur = slides.blur * rng.uniform(0.8, 1.2, len(slides.blur))
    density = _blur(hematoxylin, blur)[..., None] * slides.hematoxylin[:, None, None]
    density += _blur(eosin, blur)[..., None] * slides.eosin[:, None, None]
    light = np.exp(-density) * slides.white[:, None, None]
    light += rng.uniform(-3, 3, light.shape).astype(np.float32)
    light += rng.uniform(-3, 3, light.shape[:3]).astype(np.float32)[..., None]
    return np.clip(light, 0, 255).astype(np.uint8)


def _stamp(
    canvas: Floats,
    sprites: Floats,
    which: NDArray[np.int64],
    row: NDArray[np.int64],
    column: NDArray[np.int64],
    where: NDArray[np.bool_],
) -> None:
    """Draw sprite `which` at (row, column) of each patch, keep the darker value: all [n, k]."""
    side = sprites.shape[1]
    window = sliding_window_view(canvas, (side, side), axis=(1, 2), writeable=True)
    corner = MARGIN - side // 2
    for k in range(where.shape[1]):
        patch = np.flatnonzero(where[:, k])
        at = patch, row[patch, k] + corner, column[patch, k] + corner
        window[at] = np.maximum(window[at], sprites[which[patch, k]])


def _blur(stain: Floats, deviation: Floats) -> Floats:
    """Blur maps [n, 96, 96] by the optics, and by Gaussians of these deviations [n] if not 0."""
    padded = np.pad(stain, ((0, 0), (1, 1), (1, 1)), mode="edge")
    rows = 0.15 * (padded[:, :-2] + padded[:, 2:]) + 0.7 * padded[:, 1:-1]
    blurred = 0.15 * (rows[:, :, :-2] + rows[:, :, 2:]) + 0.7 * rows[:, :, 1:-1]
    from scipy.ndimage import gaussian_filter  # only where a demo set is drawn

    for i in np.flatnonzero(deviation):
        blurred[i] = gaussian_filter(blurred[i], deviation[i], mode="nearest", truncate=3)
    return blurred
