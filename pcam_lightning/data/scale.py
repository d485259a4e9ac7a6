"""Scale of pixel values: detection from a sample, and declaration by `data.scale`.

Networks expect 0..255. Files written by other tools may hold 0..1, -1..1, 0..65535 or standardized
values, which a network would see as black patches.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import h5py
import numpy as np

from pcam_lightning.data.files import SPLITS, SplitFiles, check_images, open_dataset, read_rows
from pcam_lightning.errors import InputError

PLACES, ROWS_AT_PLACE = 32, 8
"""Size of a sample: up to 8 successive patches at each of up to 32 places in a split."""
SAMPLE_BYTES = 256 * 2**20
"""Limit of the bytes decoded for a sample, except that it has at least 4 places."""
STRIDE = 3
"""Distance between sampled lines, and between sampled columns, of a patch."""
MARGIN = 25.5
"""Tolerance of a patch's 1st and 99th percentile outside 0..255: filters overshoot."""
DARK = 2
"""Highest 99th percentile of a patch that is black, or on another scale."""
NARROW = 12
"""Largest fractional value of standardized patches; very dark patches have such values, too."""
ODD_PATCHES, ODD_SHARE = 2, 0.1
"""Number and share of sampled patches that may be damaged as a whole; the larger one counts."""


@dataclass(frozen=True)
class Scale:
    """A linear scale of pixel values, from black (`low`) to white (`high`)."""

    low: float = 0.0
    high: float = 255.0

    @property
    def is_bytes(self) -> bool:
        """True for 0..255, the scale of the official files."""
        return (self.low, self.high) == (0, 255)

    def to_255(self, pixels: np.ndarray) -> np.ndarray:
        """Map low to 0 and high to 255, and round; returns floats of any range, NaN stays NaN.

        On the scale 0..255, return the values unchanged, in their own dtype.
        """
        if self.is_bytes:
            return pixels
        with np.errstate(over="ignore"):
            values = pixels.astype(np.result_type(pixels.dtype, np.float32))
            values -= self.low
            values *= 255 / (self.high - self.low)
        return np.rint(values, out=values)

    def __str__(self) -> str:
        """Return the value of `data.scale` that declares this scale."""
        names = {scale: name for name, scale in SCALES.items()}
        return names.get(self) or f"[{self.low:g},{self.high:g}]"


SCALES = {
    "0-255": Scale(),
    "0-1": Scale(0, 1),
    "-1-1": Scale(-1, 1),
    "0-65535": Scale(0, 65535),
}
"""Named scales."""
VALUES = f"auto, {', '.join(SCALES)}, or [low,high] with low < high"
"""Valid values of `data.scale`, as text for messages."""
BYTES = SCALES["0-255"]
MINUS_128 = Scale(-128, 127)


def declared_scale(value: str | Sequence[float]) -> Scale | None:
    """Return the scale that `data.scale` declares; None for "auto", which accepts 0..255 only.

    Raises:
        InputError: the value is neither a known name nor two finite numbers in ascending order.
    """
    if isinstance(value, str) and (value == "auto" or value in SCALES):
        return SCALES.get(value)
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 2:
        numbers = all(isinstance(each, int | float) and np.isfinite(each) for each in value)
        if numbers and value[0] < value[1]:
            return Scale(float(value[0]), float(value[1]))
    raise InputError(f"scale={value}: expected one of {VALUES}")


@dataclass(frozen=True)
class Appearance:
    """Apparent scale of sampled patches."""

    name: str
    """Name in `SCALES`, "minus 128", "normalized", "black", "several", "unknown" or "none"."""
    low: float
    """1st percentile of the darker patches, as stored; NaN without finite values."""
    high: float
    """99th percentile of the brighter patches."""
    integral: bool
    """True if all values are integers."""

    @property
    def scale(self) -> Scale | None:
        """Scale to declare; None if it cannot be known exactly."""
        return MINUS_128 if self.name == "minus 128" else SCALES.get(self.name)

    @property
    def is_dark(self) -> bool:
        """True if the values would be black on the scale 0..255."""
        return self.name in ("black", "0-1")

    def __str__(self) -> str:
        """Return a description for messages."""
        return _DESCRIPTIONS.get(self.name, f"scaled to {self.name}")


_DESCRIPTIONS = {
    "minus 128": "integers from which 128 was subtracted",
    "normalized": "normalized by a mean and a standard deviation",
    "black": "black",
    "several": "on several scales",
    "unknown": "on an unknown scale",
    "none": "not finite",
}


def appearance(patches: np.ndarray) -> Appearance:
    """Estimate the scale of patches of any numeric dtype [N, ...], N > 0.

    The 1st and 99th percentile of each patch count, so single outliers and NaN have no influence.
    Most patches decide, so a few patches that are damaged as a whole have none, either. Patches of
    one color, or of zeros and ones, count only if there are no others.
    """
    values = patches.reshape(len(patches), -1).astype(np.float64)
    values = values[np.isfinite(values).any(axis=1)]
    if not len(values):
        return Appearance("none", np.nan, np.nan, False)
    values[~np.isfinite(values)] = np.nan
    low, high = np.nanpercentile(values, (1, 99), axis=1, method="nearest")
    finite = np.isfinite(values)
    integral = (values == np.rint(values)).sum(axis=1) >= 0.99 * finite.sum(axis=1)
    dark = integral & (low >= 0) & (high <= DARK)
    ambiguous = dark | (integral & (low == high))
    ambiguous |= ~integral & (low >= 0) & (high > DARK) & (high <= NARROW)
    if not ambiguous.all() and dark.mean() < 0.95:
        informative = ~ambiguous
    elif np.count_nonzero(~dark) > _allowed(len(dark)):
        informative = ~dark
    else:
        informative = np.ones_like(dark)
    low, high, integral = low[informative], high[informative], integral[informative]
    fits = (low >= -MARGIN) & (high <= 255 + MARGIN) & (high > DARK)
    fits &= (low >= -0.05) | (high > NARROW)
    allowed, fitting = _allowed(len(fits)), int(np.count_nonzero(fits))
    selected = np.ones_like(fits)
    if len(fits) - fitting <= allowed:
        selected = fits
    elif fitting <= allowed:
        selected = ~fits
    lowest = float(np.quantile(low[selected], 0.1, method="nearest"))
    highest = float(np.quantile(high[selected], 0.9, method="nearest"))
    whole = bool(integral[selected].all())
    name = "0-255" if selected is fits else _name(lowest, highest, whole)
    # On these three scales, bright patches may fit 0..255, too.
    if fitting > allowed and name not in ("0-255", "minus 128", "normalized"):
        name = "several"
    return Appearance(name, lowest, highest, whole)


def check_scales(
    splits: Mapping[str, SplitFiles], declared: str | Sequence[float] = "auto"
) -> Scale:
    """Return the scale of the pixels of all splits, checked on a sample of bounded size of each.

    Args:
        splits: the result of `split_files`.
        declared: the value of `data.scale`.

    Raises:
        InputError: a split does not fit the declared scale (0..255 if none is declared) or is on
            another scale than training; or a file is damaged.
    """
    scale = declared_scale(declared)
    samples = {split: sample(splits[split]) for split in SPLITS}
    seen = {split: appearance(patches) for split, patches in samples.items()}
    read = seen
    if scale is not None and not scale.is_bytes:
        read = {split: appearance(scale.to_255(patches)) for split, patches in samples.items()}
    may_be_dark = scale is not None and scale.is_bytes
    for split in SPLITS:
        bright = read[split].name == "0-255" and read["train"].name == "0-255"
        dark = may_be_dark and read[split].is_dark and read["train"].is_dark
        if not (bright or dark):
            raise InputError(_refusal(splits, split, seen, scale))
    return scale or BYTES


def sample(files: SplitFiles) -> np.ndarray:
    """Return every ninth pixel of up to 256 patches spread over a split, as stored, [n, 32, 32, 3].

    Raises:
        InputError: the file is damaged.
    """
    check_images(files)
    with open_dataset(files, "x") as dataset:
        return np.concatenate(
            [
                read_rows(dataset, files.images, start, start + count)[:, ::STRIDE, ::STRIDE]
                for start, count in _runs(dataset)
            ]
        )


def _runs(dataset: h5py.Dataset) -> Iterator[tuple[int, int]]:
    """Yield first row and length of each run of rows to sample; each chunk is decoded once."""
    rows, unit = dataset.shape[0], dataset.chunks[0] if dataset.chunks else ROWS_AT_PLACE
    count = min(unit, ROWS_AT_PLACE)
    decoded = unit * dataset.dtype.itemsize * int(np.prod(dataset.shape[1:]))
    places = min(max(4, SAMPLE_BYTES // decoded), PLACES * ROWS_AT_PLACE // count)
    starts = np.linspace(0, max(0, rows - count), places).astype(np.int64)
    if dataset.chunks:
        starts = starts // unit * unit
    for start in np.unique(starts).tolist():
        yield start, min(count, rows - start)


def _allowed(patches: int) -> float:
    """Return how many patches may be damaged as a whole; always less than half."""
    return min(max(ODD_PATCHES, ODD_SHARE * patches), (patches - 1) // 2)


def _name(low: float, high: float, integral: bool) -> str:
    """Name the scale of patches that do not fit 0..255, by their percentiles."""
    if integral and low >= 0 and high <= DARK:
        return "0-1" if high == 1 else "black"
    if low >= -0.05 and high <= 1.1:
        return "0-1" if high > 0 else "black"
    if low >= -1.1 and high <= 1.1:
        return "-1-1"
    if -NARROW <= low < 0 and high <= NARROW:
        return "normalized"
    if -128 <= low < -MARGIN and high <= 127:
        return "minus 128"
    if low >= 0 and 5000 < high <= 65535:
        return "0-65535"
    return "unknown"


def _refusal(
    splits: Mapping[str, SplitFiles],
    split: str,
    seen: dict[str, Appearance],
    declared: Scale | None,
) -> str:
    """Return the error message for a split on a wrong scale."""
    own = seen[split]
    text = f"{splits[split].images}: x seems {own}"
    if own.name != "none":
        text += f" (most values lie in {own.low:.4g}..{own.high:.4g})"
    if declared is not None:
        text += f", which does not fit data.scale={declared}"
    names = {each: look.name for each, look in seen.items()}
    if len(set(names.values())) > 1:
        others = ", ".join(f"{each} {look}" for each, look in seen.items() if each != split)
        return f"{text}, other splits: {others}; expected one scale for all, export the file again"
    if own.scale is not None and not (own.integral and own.is_dark):
        return f"{text}; expected pixels in 0..255, or their scale declared: data.scale={own.scale}"
    if own.is_dark:
        return (
            f"{text}, as if divided and then converted to integers; expected pixels in 0..255, "
            "export the file again (data.scale=0-255 reads it unchanged)"
        )
    if own.name in ("normalized", "unknown"):
        about = f"data.scale=[{own.low:.4g},{own.high:.4g}]"
        return (
            f"{text}; expected pixels in 0..255: export the file again, or declare the values of "
            f"black and white with data.scale=[low,high], here about {about}"
        )
    return f"{text}; expected pixels in 0..255, export the file again"
