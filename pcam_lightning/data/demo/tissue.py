"""Synthetic patches of H&E-stained lymph node, the images of the demo set.

A patch has two maps of stain concentration, hematoxylin (nuclei) and eosin (everything else). The
Beer-Lambert law converts them to RGB. Nuclei are copies of sprites, small images drawn once per
set. All patches of a call are drawn together: the k-th nucleus of every patch is drawn at once.

Only shape determines the label. Tumour cells have one large nucleus. Histiocytes, similar benign
cells, have two small nuclei with the same total stain in the same pale cytoplasm. The center of a
positive patch has tumour cells, the center of a negative patch has histiocytes. So mean color
predicts almost nothing. In both classes, tumour cells also lie outside the center.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.floating]
Range = tuple[float, float]

SIZE = 96
"""Height and width of a patch in pixels; one pixel is about 1 micron."""
CENTER = slice(32, 64)
"""Rows and columns in which tumour makes a patch positive."""
MARGIN = 16
"""Pixels around the canvas, so that the patch's edge can cut nuclei."""
INNER = slice(MARGIN, MARGIN + SIZE)

# Optical density of the two stains in R, G, B; hematoxylin after Ruifrok & Johnston 2001, eosin
# adjusted by eye. A second laboratory stains redder, as the two hospitals of CAMELYON16 differ.
HEMATOXYLIN, HEMATOXYLIN_RED = (0.650, 0.704, 0.286), (0.53, 0.70, 0.47)
EOSIN, EOSIN_RED = (0.19, 0.99, 0.19), (0.22, 0.86, 0.46)


class Stains(NamedTuple):
    """Stains and scanner white of n slides or patches: float32 [n, 3] each."""

    hematoxylin: Floats
    """Optical density per unit of stain, in R, G, B."""
    eosin: Floats
    white: Floats
    """RGB of empty glass, 225..252."""

    def of(self, which: NDArray[np.int64] | slice) -> "Stains":
        """Return the stains at these positions, such as the slide of each patch."""
        return Stains(*(values[which] for values in self))


def draw_stains(rng: np.random.Generator, slides: int) -> Stains:
    """Draw the stains of slides: of one laboratory, the other or between, with variation."""
    red = rng.beta(0.35, 0.35, (slides, 1))

    def stain(usual: ArrayLike, redder: ArrayLike, strength: Range) -> Floats:
        color = np.asarray(usual) * (1 - red) + np.asarray(redder) * red
        color = np.clip(color + rng.normal(0, 0.02, (slides, 3)), 0.03, None)
        color /= np.linalg.norm(color, axis=1, keepdims=True)
        return (color * rng.uniform(*strength, (slides, 1))).astype(np.float32)

    white = rng.normal(244, 4, (slides, 1)) + rng.normal(0, 1.5, (slides, 3))
    return Stains(
        hematoxylin=stain(HEMATOXYLIN, HEMATOXYLIN_RED, (0.85, 1.25)),
        eosin=stain(EOSIN, EOSIN_RED, (0.8, 1.2)),
        white=np.clip(white, 225, 252).astype(np.float32),
    )


class Sprites(NamedTuple):
    """Small square images of stain, float32 [SPRITES, side, side] each, with an odd side."""

    lymphocyte: Floats
    fibroblast: Floats
    """The i-th sprite has the orientation pi * i / SPRITES."""
    histiocyte: Floats
    tumour: Floats
    cytoplasm: Floats


SPRITES = 1024
TUMOUR_REACH = 11
"""Maximum distance of a tumour nucleus's pixels from its middle, in rows or columns."""


def draw_sprites(rng: np.random.Generator) -> Sprites:
    """Draw `SPRITES` variants of each kind of cell."""

    def angle() -> Floats:
        return rng.uniform(0, np.pi, SPRITES).astype(np.float32)

    across = angle()
    pair = [
        _nuclei(rng, 13, (5.2, 6.2), (0.75, 0.95), angle(), (0.33, 0.53), (0.78, 1.05), across, way)
        for way in (-1, 1)
    ]
    vesicular = _nuclei(rng, 13, (7.6, 9.2), (0.7, 0.95), angle(), (0.3, 0.5), (0.75, 1.0))
    dark = (0.7, 1.0)
    nucleoli = [
        _nuclei(rng, 13, (1.3, 2.0), (0.7, 1.0), angle(), dark, dark, angle(), way)
        for way in (0.3, -0.4)
    ]
    tumour = np.maximum(vesicular, np.maximum(*nucleoli))
    histiocyte = np.maximum(*pair)
    histiocyte *= tumour.sum() / histiocyte.sum()  # the same amount of stain on average
    straight = np.arange(SPRITES, dtype=np.float32) * np.pi / SPRITES
    return Sprites(
        lymphocyte=_nuclei(rng, 6, (3.4, 4.5), (0.78, 1.0), angle(), (0.8, 1.1), (0.9, 1.15)),
        fibroblast=_nuclei(rng, 9, (4.5, 7.5), (0.24, 0.42), straight, (0.75, 1.0), (0.8, 1.1)),
        histiocyte=histiocyte,
        tumour=tumour,
        cytoplasm=_nuclei(rng, 15, (12.0, 14.5), (0.8, 1.0), angle(), (0.9, 1.0), (0.5, 0.5)),
    )


def _nuclei(
    rng: np.random.Generator,
    half: int,
    major: Range,
    ratio: Range,
    angle: Floats,
    body: Range,
    rim: Range,
    across: Floats | None = None,
    way: float = 0.0,
) -> Floats:
    """Draw irregular ellipses with a soft edge, one per sprite of 2 * half + 1 pixels squared.

    `major` is the longer half-axis in pixels, `ratio` the ratio of the shorter to it, `body` and
    `rim` are amounts of stain. With `across`, each is moved 5 * `way` pixels in this direction.
    """
    n = len(angle)
    vary = _varier(rng, n)
    grid = np.arange(-half, half + 1, dtype=np.float32)
    dy, dx = grid[:, None] - vary(-0.5, 0.5), grid - vary(-0.5, 0.5)
    if across is not None:
        away = 5.0 * way * vary(0.9, 1.1)
        dy = dy - away * np.sin(across)[:, None, None]
        dx = dx - away * np.cos(across)[:, None, None]
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
    """Positions of the tumour cells and histiocytes of n patches: [n, sites] each."""

    row: NDArray[np.int64]
    column: NDArray[np.int64]
    tumour: NDArray[np.bool_]
    histiocyte: NDArray[np.bool_]


ROWS = (4, 17, 40, 55, 78, 91)
"""Rows and columns of the sites; nuclei at sites outside the center do not reach into it."""


def place_nests(rng: np.random.Generator, labels: NDArray[np.uint8]) -> Nests:
    """Place tumour cells and histiocytes in patches with these labels, uint8 [n].

    Two to four central sites have tumour cells in positive patches, histiocytes in most negative
    patches. Around them, both kinds occur in both classes, with more cells towards one side.
    Tumour outside the center lies at the rim only, so a network has to use the position.
    """
    n, positive = len(labels), labels[:, None] == 1
    row, column = (grid.ravel() for grid in np.meshgrid(ROWS, ROWS, indexing="ij"))
    central = np.isin(row, ROWS[2:4]) & np.isin(column, ROWS[2:4])
    side = rng.uniform(0, 2 * np.pi, (n, 1))
    away = np.hypot(row - 48 - 42 * np.sin(side), column - 48 - 42 * np.cos(side))
    away += rng.normal(0, 8, away.shape)
    rim = np.isin(row, ROWS[::5]) | np.isin(column, ROWS[::5])

    # Outside the center, negative patches have more tumour cells, so that totals are equal.
    tumours = np.where(positive, rng.integers(0, 12, (n, 1)), rng.integers(2, 16, (n, 1)))
    tumours *= positive | (rng.random((n, 1)) > 0.1)
    tumour = _nearest(away + 1000 * ~rim, tumours)
    histiocyte = _nearest(away + 1000 * (tumour | central), rng.integers(0, 9, (n, 1)))
    filled = rng.permuted(np.tile(np.arange(4), (n, 1)), axis=1) < rng.integers(2, 5, (n, 1))
    tumour[:, central] = filled & positive
    histiocyte[:, central] = filled & ~positive & (rng.random((n, 1)) < 0.85)

    # The four central sites are rotated and moved together, with less jitter, to stay inside.
    turn = rng.uniform(0, 2 * np.pi, (n, 1)) * central
    shift = rng.uniform(-2, 2, (2, n, 1)) * central
    jitter = rng.uniform(-2.5, 2.5, (2, n, len(row))) * np.where(central, 0.6, 1)
    dy, dx = row - 47.5, column - 47.5
    y = 47.5 + dy * np.cos(turn) - dx * np.sin(turn) + shift[0] + jitter[0]
    x = 47.5 + dx * np.cos(turn) + dy * np.sin(turn) + shift[1] + jitter[1]
    return Nests(np.rint(y).astype(int), np.rint(x).astype(int), tumour, histiocyte)


def _nearest(distance: NDArray[Any], amount: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return True at the `amount` [n, 1] nearest sites of each row of `distance` [n, sites]."""
    return distance.argsort(axis=1).argsort(axis=1) < amount


def draw_patches(
    rng: np.random.Generator, labels: NDArray[np.uint8], stains: Stains, sprites: Sprites
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Draw patches with these labels, uint8 [n], and stains of n patches.

    Return the patches, uint8 [n, 96, 96, 3], and whether each contains any tumour, bool [n].
    """
    n = len(labels)
    vary = _varier(rng, n)
    coarse, medium, fine, grain = (smooth_noise(rng, n, cell) for cell in (26.0, 11.0, 5.0, 2.4))
    stroma = (rng.random(n) < 0.3) * rng.uniform(0.5, 1, n)  # share of fibrous tissue
    direction = rng.uniform(0, np.pi, n)  # angle of its fibers
    glass = _glass(rng, coarse + 0.2 * medium)

    nuclei = np.zeros((n, SIZE + 2 * MARGIN, SIZE + 2 * MARGIN), np.float32)
    cytoplasm = np.zeros_like(nuclei)
    nests = place_nests(rng, labels)
    pale = nests.tumour | nests.histiocyte
    for canvas, cells, where in (
        (nuclei, sprites.tumour, nests.tumour),
        (nuclei, sprites.histiocyte, nests.histiocyte),
        (cytoplasm, sprites.cytoplasm, pale),
    ):
        which = rng.integers(0, SPRITES, where.shape)
        _stamp(canvas, cells, which, nests.row, nests.column, where)
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
    return _transmit(rng, hematoxylin, eosin, stains), anywhere


def _varier(rng: np.random.Generator, n: int) -> Callable[[float, float], Floats]:
    """Return a function that draws one number for each of n patches."""
    return lambda low, high: rng.uniform(low, high, (n, 1, 1)).astype(np.float32)


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
    rng: np.random.Generator, hematoxylin: Floats, eosin: Floats, stains: Stains
) -> NDArray[np.uint8]:
    """Return the RGB image: white light through both stains, with blur and sensor noise."""
    density = _blur(hematoxylin)[..., None] * stains.hematoxylin[:, None, None]
    density += _blur(eosin)[..., None] * stains.eosin[:, None, None]
    light = np.exp(-density) * stains.white[:, None, None]
    light += rng.uniform(-4, 4, light.shape).astype(np.float32)
    light += rng.uniform(-5, 5, light.shape[:3]).astype(np.float32)[..., None]
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


def _blur(stain: Floats) -> Floats:
    padded = np.pad(stain, ((0, 0), (1, 1), (1, 1)), mode="edge")
    rows = 0.15 * (padded[:, :-2] + padded[:, 2:]) + 0.7 * padded[:, 1:-1]
    return 0.15 * (rows[:, :, :-2] + rows[:, :, 2:]) + 0.7 * rows[:, :, 1:-1]


def smooth_noise(rng: np.random.Generator, n: int, cell: float, size: int = SIZE) -> Floats:
    """Draw random fields [n, size, size], mean 0, deviation 1, features `cell` pixels wide."""
    knots = np.arange(-cell, size + 2 * cell, cell)
    weights = np.exp(-((np.arange(size)[:, None] - knots) ** 2) / (2 * (0.6 * cell) ** 2))
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    weights = weights.astype(np.float32)
    return weights @ rng.standard_normal((n, len(knots), len(knots)), np.float32) @ weights.T
