"""Places of tumour cells and histiocytes, which decide the label of a patch.

The center of a positive patch has tumour cells, the center of a negative patch has histiocytes or
neither. Patches are difficult in three ways. Cells of the center have any shape, often nearly the
shape of the other kind, and the cells of one center resemble each other. Some centers have only one
or two cells, which lie on the edge and only touch the center. Outside, both kinds of cells occur in
both classes, and in some patches tumour comes close to the center.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

CENTER = slice(32, 64)
"""Rows and columns in which tumour makes a patch positive."""
SITES = (4, 16, 40, 55, 79, 91)
"""Rows and columns of the sites; nuclei at sites outside the center do not reach into it."""
CLEAREST = 0.5
"""Distance of a round nucleus's shape, and of a pair's, from the limit between the two kinds."""
VAGUEST = 0.02
"""The same of the most ambiguous cells."""
NEITHER = 0.6
"""Share of negative patches with neither kind of cell in the center."""
TUMOUR_NEAR = 0.3
"""Share of patches in which tumour may lie close to the center; otherwise it is at the rim."""
ON_THE_EDGE = 0.15
"""Share of patches whose central cells only touch the center."""


class Nests(NamedTuple):
    """Tumour cells and histiocytes of n patches: [n, sites] each."""

    row: NDArray[np.int64]
    column: NDArray[np.int64]
    here: NDArray[np.bool_]
    """True for sites with a cell."""
    shape: NDArray[np.float64]
    """Shape of the cell, see `cells`; tumour cells are below 1/2."""

    @property
    def tumour(self) -> NDArray[np.bool_]:
        """True for sites with a tumour cell."""
        return self.here & (self.shape < 0.5)


def place_nests(rng: np.random.Generator, labels: NDArray[np.uint8]) -> Nests:
    """Place tumour cells and histiocytes in patches with these labels, uint8 [n]."""
    n, positive = len(labels), labels[:, None] == 1
    row, column = (grid.ravel() for grid in np.meshgrid(SITES, SITES, indexing="ij"))
    central = np.isin(row, SITES[2:4]) & np.isin(column, SITES[2:4])
    side = rng.uniform(0, 2 * np.pi, (n, 1))
    away = np.hypot(row - 48 - 42 * np.sin(side), column - 48 - 42 * np.cos(side))
    away += rng.normal(0, 8, away.shape)

    # Outside the center, negative patches have more tumour cells, so that totals are equal.
    tumours = np.where(positive, rng.integers(0, 12, (n, 1)), rng.integers(2, 16, (n, 1)))
    tumours *= positive | (rng.random((n, 1)) > 0.1)
    near = ~(np.isin(row, SITES[::5]) | np.isin(column, SITES[::5]))
    closed = near & (central | (rng.random((n, 1)) >= TUMOUR_NEAR))
    tumour = _nearest(away + 1000 * closed, tumours)
    histiocyte = _nearest(away + 1000 * (tumour | central), rng.integers(0, 9, (n, 1)))
    on_edge = rng.random((n, 1)) < ON_THE_EDGE
    cells = np.where(on_edge, rng.integers(1, 3, (n, 1)), rng.integers(2, 5, (n, 1)))
    filled = rng.permuted(np.tile(np.arange(4), (n, 1)), axis=1) < cells
    tumour[:, central] = filled & positive
    histiocyte[:, central] = filled & ~positive & (rng.random((n, 1)) >= NEITHER)

    # Cells of one center are about equally far from the other kind; elsewhere each is different.
    # The exponent makes ambiguous shapes more frequent than clear ones.
    clear = rng.random((n, len(row)))
    clear[:, central] = clear[:, central][:, :1]
    clear = VAGUEST + (CLEAREST - VAGUEST) * clear**1.5
    clear = np.clip(clear * rng.uniform(0.85, 1.15, clear.shape), VAGUEST, CLEAREST - 1e-6)
    y, x = _positions(rng, row, column, central, on_edge)
    return Nests(y, x, tumour | histiocyte, np.where(tumour, 0.5 - clear, 0.5 + clear))


def _positions(
    rng: np.random.Generator,
    row: NDArray[np.int64],
    column: NDArray[np.int64],
    central: NDArray[np.bool_],
    on_edge: NDArray[np.bool_],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Move the cells of n patches from their sites: rows and columns, [n, sites] each."""
    n, sites = len(on_edge), len(row)
    # The four central sites are rotated and moved together, with less jitter, to stay inside.
    turn = rng.uniform(0, 2 * np.pi, (n, 1)) * central
    shift = rng.uniform(-2, 2, (2, n, 1)) * central
    jitter = rng.uniform(-2.5, 2.5, (2, n, sites)) * np.where(central, 0.6, 1)
    dy, dx = row - 47.5, column - 47.5
    y = dy * np.cos(turn) - dx * np.sin(turn) + shift[0] + jitter[0]
    x = dx * np.cos(turn) + dy * np.sin(turn) + shift[1] + jitter[1]
    # On the edge, each is up to 3 pixels outside one of the four sides, nearer than any radius.
    out, along = rng.uniform(16.5, 19.5, (n, sites)), rng.uniform(-12, 12, (n, sites))
    quarter = np.pi / 2 * (np.cumsum(central) + rng.integers(0, 4, (n, 1)))
    sin, cos = np.sin(quarter), np.cos(quarter)
    moved = on_edge & central
    y = np.where(moved, out * sin + along * cos, y)
    x = np.where(moved, out * cos - along * sin, x)
    return np.rint(y + 47.5).astype(int), np.rint(x + 47.5).astype(int)


def _nearest(distance: NDArray[Any], amount: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return True at the `amount` [n, 1] nearest sites of each row of `distance` [n, sites]."""
    return distance.argsort(axis=1).argsort(axis=1) < amount
