"""Pictures of a report: PNG files of run folders, and figures drawn for the report."""

from __future__ import annotations

import io
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, UnidentifiedImageError

from pcam_lightning.report.blocks import Block, Picture, Source, Text
from pcam_lightning.report.records import Record
from pcam_lightning.runs.files import MissingRunFileError, RunFileError, read_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FILE_BYTES, PIXELS = 32 << 20, 40_000_000
"""Limits of a picture in a run folder; a larger one is not shown."""
COLORS = 256

# Pillow reports every chunk of a PNG file at this level.
logging.getLogger("PIL").setLevel(logging.WARNING)


def pictures_in(record: Record, names: dict[str, str], *, charts: bool = True) -> list[Block]:
    """Return pictures in the folder `plots/` of a run, of those that exist.

    Args:
        record: the run.
        names: file name without suffix to title.
        charts: as in `Picture.is_chart`.

    Returns:
        A picture for each file, or a warning for a file that is no PNG picture.
    """
    blocks: list[Block] = []
    for name, title in names.items():
        path = record.path / "plots" / f"{name}.png"
        try:
            png, size = _decoded(path)
        except MissingRunFileError:
            continue
        except RunFileError as error:
            blocks.append(Text(str(error), "warning"))
        else:
            source = record.source(f"plots/{name}.png")
            blocks.append(Picture(title, png, size, source, charts))
    return blocks


def drawn(title: str, figure: Figure, source: Source) -> Picture:
    """Return a figure as a picture."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    png, size = _encoded(Image.open(buffer))
    return Picture(title, png, size, source)


def _decoded(path: Path) -> tuple[bytes, tuple[int, int]]:
    """Return a PNG file as a new PNG: only pixels travel from a run folder into the page."""
    content = read_file(path, FILE_BYTES)
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            if image.width * image.height > PIXELS:
                raise RunFileError(
                    f"{path}: {image.width} x {image.height} pixels, expected at most {PIXELS:,}"
                )
            return _encoded(image)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        if isinstance(error, RunFileError):
            raise
        raise RunFileError(f"{path}: not a readable PNG picture") from None


def _encoded(image: Image.Image) -> tuple[bytes, tuple[int, int]]:
    """Return PNG with at most 256 colors, about a third of the bytes, and the size."""
    buffer = io.BytesIO()
    small = image.convert("RGB").quantize(COLORS, Image.Quantize.FASTOCTREE)
    small.save(buffer, "png", optimize=True)
    return buffer.getvalue(), image.size
