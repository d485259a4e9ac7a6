"""Some patches of an input, as every kind of input yields them."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Patches(NamedTuple):
    """Some patches, with one entry for each of N patches in every column."""

    image: NDArray[np.uint8]
    """[N, 96, 96, 3]"""
    columns: dict[str, list[Any]]
    """`file`, and as far as known `row`, `x`, `y` (top left corner in pixels) and `label`."""
