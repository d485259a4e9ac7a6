"""Every split as one mapped uint8 array, whatever its H5 file looks like.

A contiguous uint8 dataset is mapped where it lies. Anything else (float, chunked, compressed) is
cleaned and converted once into a `.npy` file, which is mapped from then on.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import h5py
import numpy as np
from filelock import FileLock, Timeout
from tqdm import tqdm

from pcam_lightning.data.clean import Cleaning, to_uint8
from pcam_lightning.data.direct import DirectFile
from pcam_lightning.data.files import (
    PATCH_BYTES,
    PATCH_SHAPE,
    SplitFiles,
    computed_over,
    mapped,
    open_dataset,
)
from pcam_lightning.data.scale import Scale, check_scale
from pcam_lightning.errors import InputError

VERSION = 2  # in the name of every copy; raise when the same source would give other bytes

log = logging.getLogger(__name__)


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


def mapped_in_place(files: SplitFiles) -> PatchFile | None:
    """The H5 file itself, if its patches lie in it as contiguous uint8."""
    with open_dataset(files.images, "x") as dataset:
        if dataset.dtype != np.uint8 or mapped(dataset, files.images) is None:
            return None
        offset = dataset.id.get_offset()
        return PatchFile(files.images, offset, dataset.shape[0], Cleaning())


def patch_file(
    files: SplitFiles,
    cache_dir: Path | None = None,
    cache: str = "auto",
    scale: Scale | None = None,
) -> PatchFile | DirectFile:
    """Where the patches of a split can be read, converting them first where that is needed.

    Args:
        files: of the split.
        cache_dir: takes the converted copies; None means the folder `.uint8` beside the H5 files.
            Processes that start together convert once; a conversion that was killed leaves
            nothing that another process would read.
        cache: "auto" converts what cannot be mapped in place; "off" leaves it to be decoded again
            whenever it is read, after one pass that counts what will be cleaned.
        scale: of the pixels on disk; any but 0..255 takes a conversion. None expects 0..255.

    Raises:
        InputError: the file is damaged or seems to be on another scale, or the cache cannot be
            written.
    """
    scale = scale or check_scale(files)
    if scale.is_bytes and (in_place := mapped_in_place(files)):
        return in_place
    if cache == "off":
        with open_dataset(files.images, "x") as dataset:
            cleaning = _clean(dataset, files.images, scale, "checking", lambda *_: None)
            return DirectFile(files.images, dataset.shape[0], cleaning, scale)

    folder = cache_dir or files.root / ".uint8"
    tag = "" if scale.is_bytes else f"_{scale.low}_{scale.high}"
    target = folder / f"{files.images.stem}_v{VERSION}{tag}_{_identity(files.images)}.npy"
    record = target.with_suffix(".json")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # The record is written last, so its presence says that the array is whole.
        if not record.is_file():
            with _alone(target):
                if not record.is_file():
                    _convert(files.images, scale, target, record)
    except OSError as error:
        raise InputError(
            f"{folder}: the uint8 copy of {files.images.name} cannot be written "
            f"({error.strerror or error}); expected a writable folder with room in data.cache_dir, "
            "or data.cache=off"
        ) from None
    cleaning = Cleaning(**json.loads(record.read_text()))
    with target.open("rb") as file:
        np.lib.format.read_magic(file)
        shape, _, _ = np.lib.format.read_array_header_1_0(file)
        return PatchFile(target, file.tell(), shape[0], cleaning)


def _identity(source: Path) -> str:
    """A digest of the file's size, time of change and a sample of its bytes, wherever it lies."""
    stat = source.stat()
    digest = hashlib.blake2b(f"{stat.st_size}|{stat.st_mtime_ns}".encode(), digest_size=8)
    with source.open("rb") as file:
        for position in np.linspace(0, max(0, stat.st_size - 4096), 64, dtype=np.int64):
            file.seek(int(position))
            digest.update(file.read(4096))
    return digest.hexdigest()


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Let one process at a time convert to `target`."""
    lock = FileLock(target.with_suffix(".lock"))
    try:
        lock.acquire(blocking=False)
    except Timeout:
        log.info("waiting for another process to convert %s", target.stem)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _convert(source: Path, scale: Scale, target: Path, record: Path) -> None:
    partial = target.with_suffix(".partial")  # whoever holds the lock may replace an old one
    try:
        with open_dataset(source, "x") as dataset, partial.open("wb") as file:
            rows = dataset.shape[0]
            _check_room(source, target.parent, rows * PATCH_BYTES)
            header = {"descr": "|u1", "fortran_order": False, "shape": (rows, *PATCH_SHAPE)}
            np.lib.format.write_array_header_1_0(file, header)
            file.flush()
            offset = file.tell()

            def store(start: int, pixels: np.ndarray) -> None:
                # Not through a memory map: there, a full disk would kill the process.
                _write_at(file.fileno(), pixels, offset + start * PATCH_BYTES)

            cleaning = _clean(dataset, source, scale, "converting", store)
            os.fsync(file.fileno())
        os.replace(partial, target)
        partial.write_text(json.dumps(asdict(cleaning)))
        os.replace(partial, record)
    finally:
        partial.unlink(missing_ok=True)


def _clean(
    dataset: h5py.Dataset,
    path: Path,
    scale: Scale,
    verb: str,
    store: Callable[[int, np.ndarray], None],
) -> Cleaning:
    """Give each run of uint8 patches with its first row to `store`, and count what was cleaned."""
    log.info("%s %s (%d patches of %s)", verb, path.name, dataset.shape[0], dataset.dtype)

    def clean(start: int, raw: np.ndarray) -> tuple[int, Cleaning]:
        pixels, changes = to_uint8(raw, scale)
        store(start, pixels)
        return len(raw), changes.total()

    total = Cleaning()
    name = f"{verb} {path.name}"
    with tqdm(total=dataset.shape[0], desc=name, unit="patch", disable=None) as bar:
        for count, cleaning in computed_over(dataset, path, clean):
            total += cleaning
            bar.update(count)
    return total


def _write_at(descriptor: int, pixels: np.ndarray, position: int) -> None:
    rest = np.ascontiguousarray(pixels).data.cast("B")
    while rest:  # a write may be cut short
        written = os.pwrite(descriptor, rest, position)
        rest, position = rest[written:], position + written


def _check_room(source: Path, folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f"{folder}: the uint8 copy of {source.name} takes {needed / 1e9:.2f} GB and "
            f"{free / 1e9:.2f} GB are free; expected room there, another data.cache_dir, or "
            "data.cache=off"
        )
