#!/usr/bin/env python3
"""Predict images with this bundle's model.

    python predict.py PATH... [--output predictions.csv] [--threshold P] [--batch N]

PATH is a PNG, TIFF or JPEG file or a folder of such files. Of a larger image, the central
96 x 96 pixels are predicted. Exit code: 0, 1 if a file was skipped, 2 on wrong arguments.
"""

import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
# A file of the bundle with the name of a module must not be imported.
sys.path[:] = [each for each in sys.path if os.path.abspath(each or ".") != HERE]

import argparse
import csv
import json
import warnings
from pathlib import Path

try:
    import numpy as np
    import onnxruntime
    from PIL import Image, ImageOps
except ImportError as error:
    options = "-r requirements.txt"
    if os.path.isdir(os.path.join(HERE, "wheels")):
        options = "--no-index --find-links wheels --require-hashes -r requirements.lock"
    command = f"cd {HERE} && {sys.executable} -m pip install {options}"
    print(f"predict.py: {' '.join(str(error).split())}; expected: {command}", file=sys.stderr)
    raise SystemExit(2) from None

SIDE = 96
SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg")
Image.MAX_IMAGE_PIXELS = 2**27  # Pillow warns of larger images
warnings.simplefilter("error", Image.DecompressionBombWarning)


def main() -> int:
    """Predict the files that the arguments name and return the exit code."""
    parser = argparse.ArgumentParser(description="Predict images with this bundle's model.")
    parser.add_argument("path", nargs="+", type=Path)
    parser.add_argument("--output", type=Path, default=Path("predictions.csv"))
    parser.add_argument("--threshold", type=float, help="default: the threshold of the bundle")
    parser.add_argument("--batch", type=int, default=64, help="patches per batch")
    arguments = parser.parse_args()
    if arguments.batch < 1 or not 0 <= (arguments.threshold or 0) <= 2:
        parser.error("expected --batch of at least 1 and --threshold from 0 to 2")
    if missing := [path for path in arguments.path if not os.path.lexists(path)]:
        parser.error(f"{str(missing[0])!a}: no such file or folder")
    if not (files := [file for path in arguments.path for file in find_images(path)]):
        parser.error(f"no {', '.join(SUFFIXES)} file in {str(arguments.path[0])!a}")
    metadata = json.loads(Path(HERE, "configs", "metadata.json").read_bytes())
    threshold = arguments.threshold
    if threshold is None:
        threshold = metadata["decision_threshold"]
    session = onnxruntime.InferenceSession(os.path.join(HERE, "models", "model.onnx"))
    skipped = 0
    with open(arguments.output, "w", encoding="utf-8", errors="replace", newline="") as output:
        table = csv.writer(output, lineterminator="\n")
        table.writerow(["file", "probability", "decision"])
        for start in range(0, len(files), arguments.batch):
            names, patches = [], []
            for file in files[start : start + arguments.batch]:
                try:
                    patches.append(crop_center(read_image(file)))
                    names.append(spreadsheet_cell(str(file).replace("\r", "\\r")))
                except Exception as error:  # Pillow raises many types for damaged files
                    reason = " ".join(str(error).split()) or type(error).__name__
                    print(f"predict.py: {str(file)!a}: {reason}", file=sys.stderr)
                    skipped += 1
            if patches:
                (found,) = session.run(["probability"], {"image": np.stack(patches)})
                for name, value in zip(names, np.asarray(found).tolist(), strict=True):
                    decision = "tumour" if value >= threshold else "normal"
                    table.writerow([name, f"{value:.9g}", decision])
    print(f"{len(files) - skipped} predicted, {skipped} skipped: {arguments.output}")
    return 1 if skipped else 0


def find_images(path: Path) -> list[Path]:
    """Return a file, or all images below a folder in the order of their names."""
    if not path.is_dir():
        return [path]
    found = []
    for parent, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        names = sorted(name for name in names if not name.startswith("."))
        found += [Path(parent, name) for name in names if name.lower().endswith(SUFFIXES)]
    return found


def read_image(path: Path) -> np.ndarray:
    """Return uint8 RGB [H, W, 3]; raise an exception for what cannot become it without loss."""
    with path.open("rb") as file, Image.open(file, formats=("PNG", "TIFF", "JPEG")) as image:
        if getattr(image, "n_frames", 1) > 1:
            raise ValueError("expected one image, found several pages")
        if image.mode not in ("RGB", "L", "1", "P", "RGBA", "LA", "PA"):
            raise ValueError(f"expected 8-bit RGB or gray, found color mode {image.mode}")
        depth = max(getattr(image, "tag_v2", {}).get(258, (8,)))  # TIFF's bits per sample
        if image.format == "PNG":
            position = file.tell()
            file.seek(24)
            depth = file.read(1)[0]  # Pillow drops the lower byte of 16-bit colors
            file.seek(position)
        if depth > 8:
            raise ValueError(f"expected 8 bits a channel, found {depth}")
        image.load()
        upright = ImageOps.exif_transpose(image)
        if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
            upright = upright.convert("RGBA")
            if np.asarray(upright)[..., 3].min() < 255:
                raise ValueError("expected an opaque image, found transparent pixels")
        return np.asarray(upright.convert("RGB"))


def crop_center(image: np.ndarray) -> np.ndarray:
    """Return the central patch [96, 96, 3] of an image [H, W, 3]."""
    height, width = image.shape[:2]
    if min(height, width) < SIDE:
        raise ValueError(f"expected at least {SIDE} x {SIDE} pixels, found {width} x {height}")
    y, x = (height - SIDE) // 2, (width - SIDE) // 2
    return image[y : y + SIDE, x : x + SIDE].copy()  # a view would keep the whole image


def spreadsheet_cell(text: str) -> str:
    """Return text with a leading quote if a spreadsheet would take it for a formula."""
    try:
        float(text)
    except ValueError:
        return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
    return text


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except OSError as error:
        print(f"predict.py: {error}", file=sys.stderr)
        raise SystemExit(2) from None
