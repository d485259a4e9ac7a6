"""Image files (PNG, TIFF, JPEG) to RGB bytes; what cannot be converted exactly is rejected."""

from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, TiffImagePlugin

from pcam_lightning.errors import InputError, one_line

SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg")
EXACT_MODES = ("RGB", "L", "1", "P")
ALPHA_MODES = ("RGBA", "LA", "PA")
MAX_PIXELS = 2**27
"""Pixels of the largest image that is read: about 11,500 x 11,500, 400 MB decoded."""

BITS_PER_SAMPLE = 258
"""The TIFF tag."""


def read_image(path: Path) -> NDArray[np.uint8]:
    """Return an image file's pixels, uint8 RGB [H, W, 3], upright where it has an orientation tag.

    Gray and palette images become RGB; an opaque alpha channel is dropped.

    Raises:
        InputError: the file is missing, damaged, too large, of another format, or cannot become
            8-bit RGB without loss (16 bits a channel, CMYK, transparency, several pages). The text
            does not name the file.
    """
    try:
        with path.open("rb") as file, Image.open(file, formats=("PNG", "TIFF", "JPEG")) as image:
            _check(image)
            _check_depth(image, file)
            image.load()
            upright = ImageOps.exif_transpose(image)
            return np.asarray(_to_rgb(upright))
    except InputError:
        raise
    except Exception as error:  # Pillow raises many types for damaged files
        raise InputError(_reason(path, error)) from None


def _check(image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise InputError(f"{width} x {height} pixels, expected at most {MAX_PIXELS:,} in all")
    if (pages := getattr(image, "n_frames", 1)) > 1:
        raise InputError(f"{pages} pages, expected one image")
    if image.mode not in (*EXACT_MODES, *ALPHA_MODES):
        raise InputError(f"color mode {image.mode}, expected 8-bit RGB or gray")


def _check_depth(image: Image.Image, file: BinaryIO) -> None:
    """Reject 16-bit RGB, of which Pillow (12) drops the lower bytes without a word."""
    depth: int = 8
    if image.format == "PNG":
        position = file.tell()
        file.seek(24)  # signature, then the IHDR chunk: length, name, width, height, bit depth
        depth = file.read(1)[0]
        file.seek(position)
    elif isinstance(image, TiffImagePlugin.TiffImageFile):
        depth = max(image.tag_v2.get(BITS_PER_SAMPLE, (8,)))
    if depth > 8:
        raise InputError(f"{depth} bits a channel, expected 8")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ALPHA_MODES or "transparency" in image.info:
        image = image.convert("RGBA")
        if image.getextrema()[3][0] < 255:  # type: ignore[index]
            raise InputError("transparent pixels, expected an opaque image")
    return image.convert("RGB")


def _reason(path: Path, error: Exception) -> str:
    if isinstance(error, Image.DecompressionBombError):
        return f"too many pixels, expected at most {MAX_PIXELS:,}"
    if isinstance(error, Image.UnidentifiedImageError):
        return "no PNG, TIFF or JPEG image"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"damaged ({one_line(error, 120)})"
