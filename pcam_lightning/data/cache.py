"""Every split as one mapped uint8 array, whatever its H5 file looks like.

A contiguous uint8 dataset is mapped where it lies. Anything else (float, chunked, compressed) is
cleaned and converted once into a `.npy` file, which is mapped from then on.
"""

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock

from pcam_lightning.data.clean import Cleaning, to_uint8
from pcam_lightning.data.files import PATCH_SHAPE, SplitFiles, open_dataset, read_chunks
from pcam_lightning.errors import InputError

_VERSION = 1  # raise when the same source would give other bytes


@dataclass(frozen=True)
class PatchFile:
    """Where N patches lie as contiguous uint8, and what was cleaned to get them there.

    Holds no open file: it can be pickled, forked and mapped again in any process.
    """

    path: Path
    offset: int
    rows: int
    cleaning: Cleaning

    def map(self) -> np.ndarray:
        """The patches, uint8 [N, 96, 96, 3], read-only; pages are shared between processes."""
        return np.memmap(self.path, np.uint8, "r", self.offset, (self.rows, *PATCH_SHAPE))


def patch_file(files: SplitFiles, cache_dir: Path | None = None) -> PatchFile:
    """Where the patches of a split can be mapped, converting them first where that is needed.

    `cache_dir` takes the converted copies; None means the folder `.uint8` beside the H5 files.
    Processes that start together convert once; a conversion that was killed leaves nothing that
    another process would read.

    Raises:
        InputError: the file is damaged, is scaled to 0..1, or the cache cannot be written.
    """
    with open_dataset(files.images, "x") as dataset:
        rows, offset = dataset.shape[0], dataset.id.get_offset()
        as_mapped = dataset.dtype == np.uint8 and not dataset.external
    if as_mapped and offset is not None:
        return PatchFile(files.images, offset, rows, Cleaning())

    folder = cache_dir or files.root / ".uint8"
    stat = files.images.stat()
    identity = f"{files.images.resolve()}|{stat.st_size}|{stat.st_mtime_ns}|{_VERSION}"
    digest = hashlib.sha256(identity.encode()).hexdigest()[:16]
    target = folder / f"{files.images.stem}_{digest}.npy"
    record = target.with_suffix(".json")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_suffix(".lock")):
            # The record is written last, so its presence says that the array is whole.
            if not record.is_file():
                _convert(files.images, rows, target, record)
    except OSError as error:
        raise InputError(
            f"{folder}: the uint8 copy of {files.images.name} cannot be written ({error.strerror});"
            " expected a writable folder with room in data.cache_dir"
        ) from None
    cleaning = Cleaning(**json.loads(record.read_text()))
    offset = target.stat().st_size - rows * int(np.prod(PATCH_SHAPE))
    return PatchFile(target, offset, rows, cleaning)


def _convert(source: Path, rows: int, target: Path, record: Path) -> None:
    partial = target.with_suffix(f".{os.getpid()}.partial")
    array = np.lib.format.open_memmap(partial, "w+", np.uint8, (rows, *PATCH_SHAPE))
    cleaning, brightest = Cleaning(), 0.0
    try:
        for start, pixels in read_chunks(source):
            if pixels.dtype.kind == "f":
                brightest = max(brightest, float(np.nanmax(pixels, initial=0.0)))
            array[start : start + len(pixels)], changed = to_uint8(pixels)
            cleaning += changed
        if 0 < brightest <= 1:
            raise InputError(
                f"{source}: no value of x is above {brightest:g}, expected pixels in 0..255; "
                "multiply them by 255"
            )
        array.flush()
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
    partial_record = record.with_suffix(f".{os.getpid()}.partial")
    partial_record.write_text(json.dumps(asdict(cleaning)))
    os.replace(partial_record, record)
