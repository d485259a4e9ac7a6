"""Demo set: synthetic patches in the official file format, drawn from a seed.

The same seed gives the same bytes on the same kind of processor, for any number of threads: NumPy's
functions round differently with other vector instructions. Slides differ in stain, in focus and
in their share of tumour, and no slide is in two splits.
"""

import csv
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from pcam_lightning.data.demo.cells import Sprites, draw_sprites
from pcam_lightning.data.demo.damage import FAULTS_OF_A_SPLIT, plant_damage
from pcam_lightning.data.demo.slides import SLIDES, Slides, draw_slides
from pcam_lightning.data.demo.tissue import draw_patches
from pcam_lightning.data.files import SPLITS, SplitFiles
from pcam_lightning.errors import InputError

VERSION = 2
"""Part of the folder's name; to be raised when the same options would give other bytes."""
CHUNK = 128
"""Patches drawn together."""
SMALLEST = 16
"""Minimum size of a split; damage needs `FAULTS_OF_A_SPLIT`."""


@dataclass(frozen=True)
class DemoOptions:
    """Options of a demo set: seed, patches per split, dtype "uint8" or "float32", known damage."""

    seed: int = 0
    train: int = 4096
    valid: int = 1024
    test: int = 1024
    dtype: str = "uint8"
    damage: bool = False

    def __post_init__(self) -> None:
        """Raise InputError for invalid options."""
        smallest = FAULTS_OF_A_SPLIT if self.damage else SMALLEST
        for name, least in (("seed", 0), *((split, smallest) for split in SPLITS)):
            if getattr(self, name) < least:
                raise InputError(f"{name}={getattr(self, name)}: expected at least {least}")
        if self.dtype not in ("uint8", "float32"):
            raise InputError(f"dtype={self.dtype}: expected uint8 or float32")

    @property
    def folder_name(self) -> str:
        """Name of the folder, different for all different options."""
        name = f"v{VERSION}_seed{self.seed}_{self.train}_{self.valid}_{self.test}"
        return name + f"_{self.dtype}" * (self.dtype != "uint8") + "_damaged" * self.damage


def ensure_demo(parent: Path, options: DemoOptions) -> Path:
    """Return the folder of the demo set below `parent`; generate the set if it is missing.

    Processes that start together generate it once. The folder appears atomically: a process that
    is killed leaves only a draft, which the next one removes.
    """
    folder = parent / options.folder_name
    if folder.is_dir():  # complete, since a rename made it; the parent may be read-only
        return folder
    parent.mkdir(parents=True, exist_ok=True)
    with FileLock(parent / f".{folder.name}.lock"):
        if not folder.is_dir():
            draft = parent / f".{folder.name}.draft"
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir()
            write_demo(draft, options)
            os.replace(draft, folder)
    return folder


def write_demo(folder: Path, options: DemoOptions) -> None:
    """Write the six H5 files and three meta files and, with damage, `demo_damage.csv`.

    `demo_damage.csv` lists every planted fault as split, row, kind and value (see `plant_damage`).
    """
    sprites = draw_sprites(np.random.default_rng((options.seed, 1)))
    images, labels, slide, tumour = {}, {}, {}, {}
    for number, split in enumerate(SPLITS):
        rows = getattr(options, split)
        rng = np.random.default_rng((options.seed, 2, number))
        slide[split] = np.sort(rng.integers(0, SLIDES[split], rows))
        slides = draw_slides(rng, split).of(slide[split])
        labels[split] = (rng.random(rows) < slides.tumour).astype(np.uint8)
        images[split], tumour[split] = _draw(options.seed, number, labels[split], slides, sprites)
    if options.dtype == "float32":
        images = {split: pixels.astype(np.float32) for split, pixels in images.items()}
    if options.damage:
        damage = plant_damage(images, labels, np.random.default_rng((options.seed, 3)))
        with (folder / "demo_damage.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("split", "row", "kind", "value"), *damage])
    for split in SPLITS:
        files = SplitFiles(folder, split)
        with h5py.File(files.images, "w") as file:
            file.create_dataset("x", data=images[split])
        with h5py.File(files.labels, "w") as file:
            file.create_dataset("y", data=labels[split].reshape(-1, 1, 1, 1))
        _write_meta(files.meta, split, slide[split], labels[split], tumour[split])


def _draw(
    seed: int, split: int, labels: NDArray[np.uint8], slides: Slides, sprites: Sprites
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    def chunk(start: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        rows = slice(start, start + CHUNK)
        rng = np.random.default_rng((seed, 4, split, start))
        return draw_patches(rng, labels[rows], slides.of(rows), sprites)

    # Threads run in parallel, as NumPy releases the GIL; only a few, as each needs much memory.
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        patches, tumour = zip(*pool.map(chunk, range(0, len(labels), CHUNK)), strict=True)
    return np.concatenate(patches), np.concatenate(tumour)


def _write_meta(
    path: Path,
    split: str,
    slides: NDArray[np.int64],
    labels: NDArray[np.uint8],
    tumour: NDArray[np.bool_],
) -> None:
    """Write the official columns; coordinates are synthetic, one patch after another."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("", "coord_y", "coord_x", "tumor_patch", "center_tumor_patch", "wsi"))
        for row, (slide, label) in enumerate(zip(slides, labels, strict=True)):
            name = f"demo_{split}_slide_{slide:02d}"
            y, x = divmod(row, 512)
            writer.writerow((row, 96 * y, 96 * x, bool(tumour[row] | label), bool(label), name))
