"""Patches to predict: from H5 files, image files, or a CSV that lists image files.

Nothing in a CSV is trusted as a path: an image outside the CSV's folder is skipped.
"""

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from pcam_lightning.data.files import PATCH_SHAPE, check_images
from pcam_lightning.data.images import SUFFIXES, read_image
from pcam_lightning.data.prefetch import prefetch_map
from pcam_lightning.errors import InputError, one_line
from pcam_lightning.predict.h5_input import H5Input, h5_files, named_h5
from pcam_lightning.predict.patches import Patches

SIDE = PATCH_SHAPE[0]
PATH_COLUMNS = ("path", "file", "filename", "file_name", "image", "image_path", "id")
EXPECTED = (
    "expected a PCam folder, an H5 file, a folder or glob of PNG, TIFF or JPEG files, or a CSV "
    "with a column of paths"
)
THUMBNAIL = 1024
"""Longest side, in pixels, of the small copy of a tiled image that a heat map is drawn on."""

PROCESS_FILES = 2_000
"""Number of small images from which processes decode them, which take seconds to start. Threads
would mostly wait for Python's lock; whole large images are better shared than sent."""
CHUNK = 32
"""Images that a process decodes at a time."""

Fit = Literal["center", "tile", "resize"]


@dataclass(frozen=True)
class ImageFile:
    """An image file by the name that the user gave it."""

    name: str
    path: Path
    label: int | None = None


@dataclass
class ImageInput:
    """Patches of image files: one a file, or a grid of patches a file where `fit` is "tile"."""

    files: list[ImageFile]
    fit: Fit
    skipped: list[tuple[str, str]] = field(default_factory=list)
    """Names of files that were not predicted, and the reasons; grows while batches are read."""
    thumbnails: dict[str, NDArray[np.uint8]] = field(default_factory=dict)
    """Small copies of the first tiled images."""

    def __post_init__(self) -> None:
        self.labeled = self.fit != "tile" and all(each.label is not None for each in self.files)

    def __len__(self) -> int:
        return len(self.files)

    def batches(self, size: int) -> Iterator[Patches]:
        images: list[NDArray[np.uint8]] = []
        columns: dict[str, list[Any]] = {}
        for file, result in self._decoded():
            if isinstance(result, str):
                self.skipped.append((file.name, result))
                continue
            if result.thumbnail is not None and len(self.thumbnails) < 8:
                self.thumbnails[file.name] = result.thumbnail
            for start in range(0, len(result.image), size):
                part = slice(start, start + size)
                images.append(result.image[part])
                for name, values in self._columns(file, result, part).items():
                    columns.setdefault(name, []).extend(values)
                if sum(map(len, images)) >= size:
                    yield Patches(np.concatenate(images), columns)
                    images, columns = [], {}
        if images:
            yield Patches(np.concatenate(images), columns)

    def _decoded(self) -> Iterator[tuple[ImageFile, "_Fitted | str"]]:
        """Yield each file with its patches or the reason why it has none, decoded on all cores."""
        cores, read = os.cpu_count() or 1, partial(_read, fit=self.fit)
        if self.fit == "tile" or len(self.files) < PROCESS_FILES or cores == 1:
            yield from prefetch_map(read, self.files, cores)
            return
        starts = range(0, len(self.files), CHUNK)
        chunks = (self.files[start : start + CHUNK] for start in starts)
        for chunk in prefetch_map(partial(_read_chunk, fit=self.fit), chunks, cores, _processes):
            yield from chunk

    def _columns(self, file: ImageFile, result: "_Fitted", part: slice) -> dict[str, list[Any]]:
        corners = result.corners[part]
        columns: dict[str, list[Any]] = {"file": [file.name] * len(corners)}
        if self.fit == "tile":
            columns |= {"x": [x for x, _ in corners], "y": [y for _, y in corners]}
        if self.labeled:
            columns["label"] = [file.label] * len(corners)
        return columns


class _Fitted(NamedTuple):
    image: NDArray[np.uint8]
    corners: list[tuple[int, int]]
    thumbnail: NDArray[np.uint8] | None


def _read(file: ImageFile, fit: Fit) -> tuple[ImageFile, _Fitted | str]:
    """Return the patches of a file, or the reason why it has none."""
    try:
        return file, fit_patches(read_image(file.path), fit)
    except InputError as error:
        return file, str(error)


def _read_chunk(files: list[ImageFile], fit: Fit) -> list[tuple[ImageFile, _Fitted | str]]:
    return [_read(file, fit) for file in files]


def _processes(count: int) -> Executor:
    # Not forked from this process, whose threads of torch may hold a lock.
    return ProcessPoolExecutor(count, get_context("forkserver"))


def fit_patches(image: NDArray[np.uint8], fit: Fit) -> _Fitted:
    """Cut patches from an image [H, W, 3]: the center, a grid from the top left, or all of it.

    Raises:
        InputError: it is smaller than a patch, and `fit` is not "resize".
    """
    height, width = image.shape[:2]
    if fit == "resize":
        small = Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        return _Fitted(np.asarray(small)[None], [(0, 0)], None)
    if min(height, width) < SIDE:
        raise InputError(
            f"{width} x {height} pixels, expected at least {SIDE} x {SIDE}, or predict.fit=resize"
        )
    if fit == "center":
        x, y = (width - SIDE) // 2, (height - SIDE) // 2
        # A copy: a view would keep the whole image in memory until its batch is complete.
        return _Fitted(image[None, y : y + SIDE, x : x + SIDE].copy(), [(x, y)], None)
    rows, columns = height // SIDE, width // SIDE
    grid = image[: rows * SIDE, : columns * SIDE].reshape(rows, SIDE, columns, SIDE, 3)
    corners = [(x * SIDE, y * SIDE) for y in range(rows) for x in range(columns)]
    small = Image.fromarray(image[: rows * SIDE, : columns * SIDE])
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    return _Fitted(grid.swapaxes(1, 2).reshape(-1, *PATCH_SHAPE), corners, np.asarray(small))


def find_input(
    given: str,
    fit: Fit,
    scale: Any,
    column: str | None = None,
    root: str | None = None,
    keys: Sequence[str] | None = None,
    cache_dir: str | None = None,
) -> H5Input | ImageInput:
    """Find what `input=` names.

    Args:
        given: a PCam folder, an H5 file, an image, a folder or glob of images, or a CSV.
        fit: how a patch comes from a larger image.
        scale: of the pixels in H5 files, as `data.scale`.
        column: of a CSV, with the paths; None looks for one of `PATH_COLUMNS`.
        root: folder of the files that a CSV lists; None is the folder of the CSV.
        keys, cache_dir: of H5 files, as in the section `data`.

    Raises:
        InputError: there is no such input, or nothing in it to predict.
    """
    path = Path(given)
    if path.is_dir():
        if (path / "train_labels.csv").is_file():
            return _from_csv(path / "train_labels.csv", fit, column, root)
        if h5 := h5_files(path, keys, cache_dir):
            return H5Input(h5, scale)
        return _images(given, _walk(path), path, fit)
    if named := named_h5(path, keys, cache_dir):
        check_images(named)
        return H5Input([named], scale)
    if not os.path.lexists(path):
        if not glob.has_magic(given):
            raise InputError(f"input={given}: no such file or folder, {EXPECTED}")
        found = (Path(each) for each in sorted(glob.iglob(given, recursive=True)))
        return _images(given, found, Path("."), fit)
    suffix = path.suffix.lower()
    if suffix == ".csv":
        return _from_csv(path, fit, column, root)
    if suffix in SUFFIXES:
        return _images(given, [path], path.parent, fit)
    raise InputError(f"input={given}: {EXPECTED}")


def _walk(folder: Path) -> Iterator[Path]:
    """Yield all files below a folder in order of their names; links to folders are not followed."""
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(parent, name) for name in sorted(names) if not name.startswith("."))


def _images(given: str, paths: Iterable[Path], base: Path, fit: Fit) -> ImageInput:
    files = [
        ImageFile(str(path.relative_to(base) if path.is_relative_to(base) else path), path)
        for path in paths
        if path.suffix.lower() in SUFFIXES and not path.is_dir()
    ]
    if not files:
        raise InputError(f"input={given}: no {', '.join(SUFFIXES)} file there, {EXPECTED}")
    return ImageInput(files, fit)


def _from_csv(path: Path, fit: Fit, column: str | None, root: str | None) -> ImageInput:
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: {one_line(error, 200)}; expected a CSV with paths") from None
    wanted = [column] if column else list(PATH_COLUMNS)
    name = next((each for each in wanted if each in table), None)
    if name is None:
        raise InputError(
            f"{path}: no column {' or '.join(wanted)}, expected predict.column= to be one of "
            f"{', '.join(map(one_line, table.columns))}"
        )
    if table.empty:
        raise InputError(f"{path}: no rows, expected paths")
    base = path.parent if root is None else Path(root)
    if not base.is_dir():
        raise InputError(f"predict.root={base}: no such folder, expected that of the images")
    labels = table["label"].tolist() if "label" in table else [""] * len(table)
    labeled = set(labels) <= {"0", "1"}
    # Kaggle's train_labels.csv lists files of the folder train, without their suffix.
    folders = [base, base / path.stem.removesuffix("_labels")]
    stems = {
        each.stem: each
        for folder in reversed(folders)
        if folder.is_dir()
        for each in sorted(folder.iterdir())
        if each.suffix.lower() in SUFFIXES
    }
    result = ImageInput([], fit)
    inside = base.resolve()
    for value, label in zip(table[name], labels, strict=True):
        found = stems.get(value) or base / value
        try:
            outside = not found.resolve().is_relative_to(inside)
        except (OSError, ValueError, RuntimeError) as error:
            result.skipped.append((value, one_line(error)))
            continue
        if outside:
            result.skipped.append((value, f"outside {base}, expected a path in this folder"))
            continue
        result.files.append(ImageFile(value, found, int(label) if labeled else None))
    result.labeled = labeled and fit != "tile"
    return result
