"""Draws patches that look like H&E-stained lymph node: the pictures of the demo set.

A patch is two maps of stain concentration, haematoxylin (nuclei) and eosin (everything else), which
the Beer-Lambert law turns into RGB. Nuclei come from sprites, small pictures drawn once per set.
All patches of a call are drawn together: the k-th nucleus of every patch is stamped at once.

The label is about shape alone. Tumour cells have one large nucleus; histiocytes, their benign
look-alikes, have two small ones with the same total stain in the same pale cytoplasm, and the
centre of a negative patch holds histiocytes where that of a positive one holds tumour. So mean
colour says next to nothing, and tumour cells lie outside the centre in either class.
"""

from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float32]
Range = tuple[float, float]

SIZE = 96
"""Height and width of a patch in pixels; one pixel is about 1 micron."""
CENTRE = slice(32, 64)
"""The rows, and the columns, whose tumour makes a patch positive."""
MARGIN = 16  # pixels around the canvas that let nuclei be cut by the patch's edge

# Optical density of the two stains in R, G, B: Ruifrok & Johnston 2001, doi:10.2116/analsci.17.
# A second laboratory stains redder, as the two hospitals of CAMELYON16 differ.
HAEMATOXYLIN, HAEMATOXYLIN_RED = (0.650, 0.704, 0.286), (0.53, 0.70, 0.47)
EOSIN, EOSIN_RED = (0.19, 0.99, 0.19), (0.22, 0.86, 0.46)


class Stains(NamedTuple):
    """How slides, or the patches cut from them, are stained and scanned: float32 [n, 3] each."""

    haematoxylin: Floats
    """Optical density per unit of stain, in R, G, B."""
    eosin: Floats
    white: Floats
    """RGB of empty glass, 225 to 252."""

    def of(self, slides: NDArray[np.int64]) -> "Stains":
        """The stains of patches cut from these slides."""
        return Stains(*(values[slides] for values in self))


def draw_stains(rng: np.random.Generator, slides: int) -> Stains:
    """Stains of `slides` slides: one laboratory's, the other's or between, each a little off."""
    red = rng.beta(0.35, 0.35, (slides, 1))

    def stain(usual: ArrayLike, redder: ArrayLike, strength: Range) -> Floats:
        colour = np.asarray(usual) * (1 - red) + np.asarray(redder) * red
        colour = np.clip(colour + rng.normal(0, 0.02, (slides, 3)), 0.03, None)
        colour /= np.linalg.norm(colour, axis=1, keepdims=True)
        return (colour * rng.uniform(*strength, (slides, 1))).astype(np.float32)

    white = rng.normal(244, 4, (slides, 1)) + rng.normal(0, 1.5, (slides, 3))
    return Stains(
        haematoxylin=stain(HAEMATOXYLIN, HAEMATOXYLIN_RED, (0.85, 1.25)),
        eosin=stain(EOSIN, EOSIN_RED, (0.8, 1.2)),
        white=np.clip(white, 225, 252).astype(np.float32),
    )


class Sprites(NamedTuple):
    """Small square pictures of stain, float32 [SPRITES, side, side], the side an odd number."""

    lymphocyte: Floats
    fibroblast: Floats
    """The i-th points at angle pi * i / SPRITES."""
    histiocyte: Floats
    tumour: Floats
    cytoplasm: Floats


SPRITES = 1024
TUMOUR_REACH = 11
"""No pixel of a tumour nucleus is further than this from its middle, in rows or columns."""


def draw_sprites(rng: np.random.Generator) -> Sprites:
    """Draw SPRITES variants of every kind of cell."""

    def angle() -> Floats:
        return rng.uniform(0, np.pi, SPRITES).astype(np.float32)

    across = angle()
    pair = [
        _nuclei(rng, 13, (5.2, 6.2), (0.75, 0.95), angle(), (0.33, 0.53), (0.78, 1.05), across, way)
        for way in (-1, 1)
    ]
    vesicular = _nuclei(rng, 13, (7.6, 9.2), (0.7, 0.95), angle(), (0.3, 0.5), (0.75, 1.0))
    nucleoli = [_nuclei(rng, 13, (1.3, 2.0), (0.7, 1.0), angle(), (0.7, 1.0), (0.7, 1.0), angle(), way)
                for way in (0.3, -0.4)]
    tumour=np.maximum(vesicular, np.maximum(*nucleoli)); histiocyte=np.maximum(*pair)
    print('ratio',tumour.sum()/histiocyte.sum())
    histiocyte*=GAIN*tumour.sum()/histiocyte.sum()
    straight = np.arange(SPRITES, dtype=np.float32) * np.pi / SPRITES
    return Sprites(
        lymphocyte=_nuclei(rng, 6, (3.4, 4.5), (0.78, 1.0), angle(), (0.8, 1.1), (0.9, 1.15)),
        fibroblast=_nuclei(rng, 9, (4.5, 7.5), (0.24, 0.42), straight, (0.75, 1.0), (0.8, 1.1)),
        histiocyte=histiocyte,tumour=tumour,
        cytoplasm=_nuclei(rng, 15, (12.0, 14.5), (0.8, 1.0), angle(), (0.9, 1.0), (0.5, 0.5)),
    )


def _nuclei(rng, half, major, ratio, angle, body, rim, across=None, way=0.0) -> Floats:
    n = len(angle)

    def vary(low: float, high: float) -> Floats:
        return rng.uniform(low, high, (n, 1, 1)).astype(np.float32)

    grid = np.arange(-half, half + 1, dtype=np.float32)
    dy, dx = grid[:, None] - vary(-0.5, 0.5), grid - vary(-0.5, 0.5)
    if across is not None:
        away = 5.0 * way * vary(0.9, 1.1)
        dy, dx = dy - away * np.sin(across)[:, None, None], dx - away * np.cos(across)[:, None, None]
    cos, sin = np.cos(angle)[:, None, None], np.sin(angle)[:, None, None]
    a = vary(*major)
    b = a * vary(*ratio)
    along, over = (dx * cos + dy * sin) / a, (dy * cos - dx * sin) / b
    radius, phi = np.hypot(along, over), np.arctan2(over, along)
    for wave in (2, 3, 4):
        radius = radius * (1 + vary(-0.06, 0.06) * np.cos(wave * phi + vary(0, 2 * np.pi)))
    inside = np.clip((1 - radius) * np.sqrt(a * b) / 1.4 + 0.5, 0, 1)
    stain = vary(*body) * (1 + 0.2 * smooth_noise(rng, n, 2.2, 2 * half + 1))
    stain += (vary(*rim) - stain) * np.clip((radius - 0.72) * 5, 0, 1)
    return inside * stain


class Nests(NamedTuple):
    """Where the tumour cells and histiocytes of n patches are: [n, SITES] each."""

    row: NDArray[np.int64]
    column: NDArray[np.int64]
    tumour: NDArray[np.bool_]
    histiocyte: NDArray[np.bool_]


# Six rows of six sites. Those outside the centre keep TUMOUR_REACH clear of it.
ROWS = (5, 19, 40, 55, 76, 90)


def place_nests(rng: np.random.Generator, labels: NDArray[np.uint8]) -> Nests:
    n, positive = len(labels), labels[:, None] == 1
    row, column = (grid.ravel() for grid in np.meshgrid(ROWS, ROWS, indexing="ij"))
    central = np.isin(row, ROWS[2:4]) & np.isin(column, ROWS[2:4])
    angle = rng.uniform(0, 2 * np.pi, (n, 1))
    away = np.hypot(row - 48 - 42 * np.sin(angle), column - 48 - 42 * np.cos(angle))
    away += rng.normal(0, 8, away.shape) + 1000 * central
    rank = away.argsort(axis=1).argsort(axis=1)
    tumours = np.where(positive, rng.integers(0, 12, (n, 1)), rng.integers(2, 16, (n, 1)))
    tumours *= positive | (rng.random((n, 1)) > 0.1)
    tumour = rank < tumours
    histiocyte = ~tumour & (rank < tumours + rng.integers(0, 9, (n, 1)))
    filled = rng.permuted(np.tile(np.arange(4), (n, 1)), axis=1) < rng.integers(3, 5, (n, 1))
    tumour[:, central] = filled & positive
    histiocyte[:, central] = filled & ~positive & (rng.random((n, 1)) < PALE)
    shape = (2, n, len(row))
    jitter = rng.uniform(-2.5, 2.5, shape)
    turn = rng.uniform(0, 2 * np.pi, (n, 1)) * central
    shift = rng.uniform(-2, 2, (2, n, 1)) * central
    dy, dx = row - 47.5, column - 47.5
    y = 47.5 + dy * np.cos(turn) - dx * np.sin(turn) + shift[0] + jitter[0]*np.where(central,.6,1)
    x = 47.5 + dx * np.cos(turn) + dy * np.sin(turn) + shift[1] + jitter[1]*np.where(central,.6,1)
    return Nests(np.rint(y).astype(int), np.rint(x).astype(int), tumour, histiocyte)
PALE=.85;GAIN=1.

def draw_patches(rng, labels, stains, sprites):
    n = len(labels)

    def vary(low: float, high: float) -> Floats:
        return rng.uniform(low, high, (n, 1, 1)).astype(np.float32)

    coarse, medium, fine, grain = (smooth_noise(rng, n, cell) for cell in (26.0, 11.0, 5.0, 2.4))
    stroma = (rng.random(n) < 0.3) * rng.uniform(0.5, 1, n)
    direction = rng.uniform(0, np.pi, n)
    nests = place_nests(rng, labels)
    # glass
    kind = rng.random(n)
    level = np.where(kind < .06, rng.uniform(-.7, .3, n), np.where(kind < .35, rng.uniform(.9, 1.8, n), 9))
    glass = np.clip((coarse + .2 * medium - level.astype(np.float32)[:, None, None]) * 7, 0, 1)
    # nuclei
    haem = np.zeros((n, SIZE + 2 * MARGIN, SIZE + 2 * MARGIN), np.float32)
    cyto = np.zeros_like(haem)
    pale = nests.tumour | nests.histiocyte
    for cells, where in ((sprites.tumour, nests.tumour), (sprites.histiocyte, nests.histiocyte)):
        _stamp(haem, cells, rng.integers(0, SPRITES, where.shape), nests.row, nests.column, where)
    _stamp(cyto, sprites.cytoplasm, rng.integers(0, SPRITES, pale.shape), nests.row, nests.column, pale)
    pitch = 7.8; m = 14; g = np.arange(m) * pitch - 2
    gy, gx = (v.ravel() for v in np.meshgrid(g, g, indexing='ij')); K = m * m
    j = rng.uniform(-2.3, 2.3, (2, n, K))
    y = np.rint(gy + j[0]).astype(int); x = np.rint(gx + pitch / 2 * ((np.arange(K) // m) % 2) + j[1]).astype(int)
    I = np.arange(n)[:, None]; iy = np.clip(y, 0, 95); ix = np.clip(x, 0, 95)
    cellularity = rng.beta(2.6, .9, n) * (1 - .6 * stroma)
    on = rng.random((n, K)) < cellularity[:, None] + .15 * coarse[I, iy, ix] + .12 * medium[I, iy, ix]
    on &= (glass[I, iy, ix] < .3) & (y < 102) & (x < 102) & (cyto[I, iy + MARGIN, ix + MARGIN] < .62)
    thin = (stroma > 0)[:, None] & (rng.random((n, K)) < .7)
    _stamp(haem, sprites.lymphocyte, rng.integers(0, SPRITES, (n, K)), y, x, on & ~thin)
    t = direction[:, None] + rng.normal(0, .22, (n, K))
    _stamp(haem, sprites.fibroblast, (t * SPRITES / np.pi).astype(int) % SPRITES, y, x, on & thin)
    c = slice(MARGIN, MARGIN + SIZE); haem = haem[:, c, c]; cyto = np.minimum(cyto[:, c, c] * 1.25, 1)
    # matrix
    strands = np.exp(-12 * (medium + .5 * fine) ** 2)
    tissue = 1 - glass * (1 - cyto) * (1 - .35 * strands)
    eosin = .24 + .18 * strands + .08 * medium + .11 * fine + .05 * coarse + .08 * grain
    s = np.flatnonzero(stroma)
    yy = np.arange(SIZE, dtype=np.float32)
    u = (yy[:, None] * np.cos(direction[s])[:, None, None] - yy * np.sin(direction[s])[:, None, None]).astype(np.float32)
    ph = .42 * u + 1.6 * coarse[s] + .9 * medium[s] + .35 * fine[s]
    eosin[s] += stroma[s, None, None].astype(np.float32) * (.22 * np.sin(ph) + .14 * np.sin(2.3 * ph + 2 * coarse[s]) + .12)
    eosin = np.clip(eosin, .02, None) * vary(.7, 1.5)
    eosin = eosin * (1 - .6 * cyto) + cyto * (.26 + .08 * fine + .07 * grain) * vary(.7, 1.3)
    thick = vary(.7, 1.2)
    haem = haem * (1.7 + .3 * grain) * thick + np.clip(.11 + .05 * fine + .05 * medium, 0, 1) + .1 * cyto * vary(.5, 1.5)
    haem = np.clip(haem, 0, None) * tissue
    eosin = eosin * (1 - .3 * np.minimum(haem, 1)) * tissue * thick + .015 + .01 * coarse
    # light
    od = _blur(haem)[..., None] * stains.haematoxylin[:, None, None] + _blur(eosin)[..., None] * stains.eosin[:, None, None]
    rgb = np.exp(-od) * stains.white[:, None, None]
    rgb += rng.integers(0, 256, rgb.shape, dtype=np.uint8) * np.float32(8 / 255) - 4
    rgb += (rng.integers(0, 256, rgb.shape[:3], dtype=np.uint8) * np.float32(10 / 255) - 5)[..., None]
    return np.clip(rgb, 0, 255).astype(np.uint8), nests


def _stamp(canvas, sprites, which, row, column, where):
    side = sprites.shape[1]
    window = sliding_window_view(canvas, (side, side), axis=(1, 2), writeable=True)
    corner = MARGIN - side // 2
    for k in range(where.shape[1]):
        patch = np.flatnonzero(where[:, k])
        at = patch, row[patch, k] + corner, column[patch, k] + corner
        window[at] = np.maximum(window[at], sprites[which[patch, k]])


def _blur(stain: Floats) -> Floats:
    padded = np.pad(stain, ((0, 0), (1, 1), (1, 1)), mode="edge")
    rows = 0.15 * (padded[:, :-2] + padded[:, 2:]) + 0.7 * padded[:, 1:-1]
    return 0.15 * (rows[:, :, :-2] + rows[:, :, 2:]) + 0.7 * rows[:, :, 1:-1]


def smooth_noise(rng: np.random.Generator, n: int, cell: float, size: int = SIZE) -> Floats:
    """Random fields of mean 0 and deviation 1 with features about `cell` pixels wide: [n, size, size]."""
    knots = np.arange(-cell, size + 2 * cell, cell)
    weights = np.exp(-((np.arange(size)[:, None] - knots) ** 2) / (2 * (0.6 * cell) ** 2))
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    weights = weights.astype(np.float32)
    return weights @ rng.standard_normal((n, len(knots), len(knots)), np.float32) @ weights.T
