"""Sprites: small images of cells, drawn once per set and copied into patches.

Every tumour cell and every histiocyte has two lobes, each with a nucleolus, and the same area and
stain on average. Only its shape differs: a number from 0 to 1, in proportion to the distance of the
lobes. At 0 they are one large round nucleus, at 1 two small nuclei side by side. Cells below 1/2
are tumour, cells above are histiocytes. Near 1/2 they look alike: ovals with a slight waist.
"""

from typing import NamedTuple

import numpy as np

from pcam_lightning.data.demo.noise import Floats, Range, smooth_noise, varier

SPRITES = 1024
REACH = 13
"""Maximum distance of a cell's nuclei from its middle, in rows or columns."""
TUMOUR_REACH = 11
"""The same of tumour cells."""
LOBES_APART = 5.2
"""Distance of both lobes from the middle of a cell of shape 1, in pixels."""


class Sprites(NamedTuple):
    """Small square images of stain, float32 [SPRITES, side, side] each, with an odd side."""

    lymphocyte: Floats
    fibroblast: Floats
    """The i-th sprite has the orientation pi * i / SPRITES."""
    lobed: Floats
    """Tumour cells and histiocytes; the i-th sprite has the shape (i + 1/2) / SPRITES."""
    cytoplasm: Floats


def draw_sprites(rng: np.random.Generator) -> Sprites:
    """Draw `SPRITES` variants of each kind of cell."""

    def angle() -> Floats:
        return rng.uniform(0, np.pi, SPRITES).astype(np.float32)

    rank = np.arange(SPRITES, dtype=np.float32)
    return Sprites(
        lymphocyte=_nuclei(rng, 6, (3.4, 4.5), (0.78, 1.0), angle(), (0.8, 1.1), (0.9, 1.15)),
        fibroblast=_nuclei(
            rng, 9, (4.5, 7.5), (0.24, 0.42), rank * np.pi / SPRITES, (0.75, 1.0), (0.8, 1.1)
        ),
        lobed=_lobed(rng, (rank + 0.5) / SPRITES, angle()),
        cytoplasm=_nuclei(rng, 15, (12.0, 14.5), (0.8, 1.0), angle(), (0.9, 1.0), (0.5, 0.5)),
    )


def _lobed(rng: np.random.Generator, shape: Floats, across: Floats) -> Floats:
    """Draw cells of these shapes, whose lobes lie in the direction `across`: [n, 27, 27]."""
    n = len(shape)
    vary = varier(rng, n)
    apart = LOBES_APART * shape[:, None, None] * vary(0.92, 1.08)
    # Radius at which the union of two circles has the area of one circle of radius 7.2 pixels.
    radii = np.linspace(3, 9, 601)[:, None]
    half = np.minimum(LOBES_APART * shape / radii, 1)
    area = 2 * radii**2 * (np.pi - np.arccos(half) + half * np.sqrt(1 - half**2))
    radius = radii[np.abs(area - np.pi * 7.2**2).argmin(axis=0)].astype(np.float32)[..., None]
    radius = radius * vary(0.92, 1.08)
    middle = vary(-0.5, 0.5), vary(-0.5, 0.5)
    sin, cos = np.sin(across)[:, None, None], np.cos(across)[:, None, None]

    fields = []
    nucleoli = np.zeros((n, 2 * REACH + 1, 2 * REACH + 1), np.float32)
    for way in (-1, 1):
        at = middle[0] + way * apart * sin, middle[1] + way * apart * cos
        turn = rng.uniform(0, np.pi, n).astype(np.float32)
        ratio = vary(0.8, 1.0)
        fields.append(_radius(rng, REACH, at, radius / np.sqrt(ratio), ratio, turn))
        spot = np.maximum(apart, 2.0) * vary(0.8, 1.1)
        at = middle[0] + way * spot * sin, middle[1] + way * spot * cos
        distance = _radius(rng, REACH, at, vary(1.2, 1.9), vary(0.7, 1.0), turn)
        nucleoli = np.maximum(nucleoli, _fill(distance, 1.5, vary(0.65, 1.0)))
    union = np.minimum(*fields)
    stain = vary(0.32, 0.52) * (1 + 0.2 * smooth_noise(rng, n, 2.2, 2 * REACH + 1))
    stain += (vary(0.76, 1.02) - stain) * np.clip((union - 0.72) * 5, 0, 1)
    cells = np.maximum(_fill(union, radius, stain), nucleoli)
    total = cells.sum(axis=(1, 2))
    trend = np.polyval(np.polyfit(shape, total, 3), shape)
    return cells * (total.mean() / trend).astype(np.float32)[:, None, None]


def _nuclei(
    rng: np.random.Generator,
    half: int,
    major: Range,
    ratio: Range,
    angle: Floats,
    body: Range,
    rim: Range,
) -> Floats:
    """Draw irregular ellipses with a soft edge, one per sprite of 2 * half + 1 pixels squared.

    `major` is the longer half-axis in pixels, `ratio` the ratio of the shorter to it, `body` and
    `rim` are amounts of stain.
    """
    n = len(angle)
    vary = varier(rng, n)
    a, shorter = vary(*major), vary(*ratio)
    radius = _radius(rng, half, (vary(-0.5, 0.5), vary(-0.5, 0.5)), a, shorter, angle)
    stain = vary(*body) * (1 + 0.2 * smooth_noise(rng, n, 2.2, 2 * half + 1))
    stain += (vary(*rim) - stain) * np.clip((radius - 0.72) * 5, 0, 1)
    return _fill(radius, a * np.sqrt(shorter), stain)


def _radius(
    rng: np.random.Generator,
    half: int,
    middle: tuple[Floats, Floats],
    a: Floats,
    ratio: Floats,
    angle: Floats,
) -> Floats:
    """Return the distance of each pixel from `middle`, 1 at the edge of an irregular ellipse.

    `a` is the longer half-axis in pixels, `ratio` the ratio of the shorter to it.
    """
    vary = varier(rng, len(angle))
    grid = np.arange(-half, half + 1, dtype=np.float32)
    dy, dx = grid[:, None] - middle[0], grid - middle[1]
    cos, sin = np.cos(angle)[:, None, None], np.sin(angle)[:, None, None]
    along, over = (dx * cos + dy * sin) / a, (dy * cos - dx * sin) / (a * ratio)
    radius, phi = np.hypot(along, over), np.arctan2(over, along)
    for wave in (2, 3, 4):
        radius = radius * (1 + vary(-0.06, 0.06) * np.cos(wave * phi + vary(0, 2 * np.pi)))
    return radius


def _fill(radius: Floats, pixels: Floats | float, stain: Floats) -> Floats:
    """Return `stain` inside radius 1, which is `pixels` long; the edge is 1.4 pixels wide."""
    return np.clip((1 - radius) * pixels / 1.4 + 0.5, 0, 1) * stain
