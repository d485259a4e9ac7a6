"""Memory-mapped uint8 patches of a split, for any layout of its H5 file.

A contiguous uint8 dataset is mapped in place. Any other dataset (float, chunked, compressed, with
its channels first) is cleaned and converted once into a `.npy` file, which is mapped from then on.
"""

import logging
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xxhash
from tqdm import tqdm

from pcam_lightning.data.clean import Cleaning, to_uint8
from pcam_lightning.data.files import (
    PATCH_BYTES,
    PATCH_SHAPE,
    SplitFiles,
    check_images,
    is_channels_first,
    map_chunks,
    mapped,
    open_dataset,
    recall,
)
from pcam_lightning.data.h5 import DirectFile
from pcam_lightning.data.identity import content_digest
from pcam_lightning.data.ledger import Ledger
from pcam_lightning.data.scale import BYTES, Scale
from pcam_lightning.data.shared_folder import (
    MODE,
    exclusive,
    is_trusted,
    read_json,
    remove_drafts,
    write_json,
)
from pcam_lightning.errors import InputError, one_line
from pcam_lightning.files import draft

VERSION = 3
"""Part of the name of every copy; to be raised when the same source would give other bytes."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PatchFile:
    """A file region with N patches as contiguous uint8, and the count of cleaned values.

    It holds no open file, so it can be pickled, forked and mapped again in any process.
    """

    path: Path
    offset: int
    rows: int
    cleaning: Cleaning

    def map(self) -> np.ndarray:
        """Return the patches, uint8 [N, 96, 96, 3], read-only; processes share their pages."""
        return np.memmap(self.path, np.uint8, "r", self.offset, (self.rows, *PATCH_SHAPE))


def mapped_in_place(files: SplitFiles) -> PatchFile | None:
    """Return the region of the patches in the H5 file, None if they are not contiguous uint8.

    Patches with their channels first are not.
    """
    with open_dataset(files, "x") as dataset:
        if dataset.dtype != np.uint8 or is_channels_first(dataset) or mapped(dataset) is None:
            return None
        path, offset = Path(dataset.file.filename), dataset.id.get_offset()
        return PatchFile(path, offset, dataset.shape[0], Cleaning())


def patch_file(
    files: SplitFiles,
    cache: bool = True,
    scale: Scale | None = None,
) -> PatchFile | DirectFile:
    """Return the readable patches of a split, converted first if they cannot be mapped in place.

    Processes that start together convert once. No process reads the result of a conversion that
    was killed.

    Args:
        files: the files of the split. Converted copies are placed in `files.cache_dir`, or in
            `.uint8` beside the H5 files if it is None.
        cache: convert if needed; if false, patches are decoded at every read, after one pass that
            counts the values to clean.
        scale: scale of the pixels on disk, which is not checked here; any but 0..255 needs a
            conversion. None means 0..255.

    Raises:
        InputError: the file is damaged, or the cache cannot be written.
    """
    rows = check_images(files)
    scale = scale or BYTES
    if scale.is_bytes and (in_place := mapped_in_place(files)):
        return in_place
    if not cache:
        with open_dataset(files, "x") as dataset:

            def count() -> dict[str, int]:
                return asdict(_clean(dataset, files.images, scale, "checking", lambda *_: None))

            cleaning = recall(dataset, files.images, f"cleaning v{VERSION} {scale}", count)
            return DirectFile(files, rows, Cleaning(**cleaning), scale)

    folder, digest = files.cache_dir or files.root / ".uint8", content_digest(files, "x")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # A user reads and writes copies of their own, and reads those of the data's owner and root.
        name = f"{files.images.stem}_v{VERSION}_{digest}" + ("" if scale.is_bytes else f"_{scale}")
        copies = [
            _Copy(files, folder / f"{name}_u{user}.npy", rows, scale)
            for user in dict.fromkeys((os.getuid(), files.images.stat().st_uid, 0))
        ]
        for copy in copies:
            if found := copy.find(quietly=copy is copies[0]):
                return found
        with exclusive(copies[0].target.with_suffix(".lock"), f"convert {files.images.name}"):
            found = copies[0].find() or copies[0].make()
            _remove_outdated(files, folder, digest)
            return found
    except OSError as error:
        raise InputError(
            f"{folder}: the uint8 copy of {files.images.name} cannot be written "
            f"({error.strerror or error}); expected a writable folder with enough space as "
            "data.cache_dir, or data.cache=false"
        ) from None


@dataclass(frozen=True)
class _Copy:
    """A uint8 copy of a split's patches: an array (`.npy`) and its record (`.json`).

    The record holds the path of the source relative to the copy, the digest of the copy and the
    count of cleaned values. It is written last: if it exists, the array is complete.
    """

    files: SplitFiles
    target: Path
    rows: int
    scale: Scale

    @property
    def record(self) -> Path:
        return self.target.with_suffix(".json")

    def find(self, quietly: bool = False) -> PatchFile | None:
        """Return the copy if it is valid and of a trusted user, else None.

        An invalid copy is logged unless `quietly`, since it is searched again under the lock.
        """
        if not os.path.lexists(self.record):
            return None
        try:
            owner = self.files.images.stat().st_uid
            if not is_trusted(self.target, owner) or not is_trusted(self.record, owner):
                raise ValueError("it belongs to another user or is no regular file")
            return self._checked(read_json(self.record, owner))
        except (OSError, TypeError, ValueError) as error:
            if not quietly:
                log.warning("%s: invalid copy, not used (%s)", self.target, one_line(error))
            return None

    def make(self) -> PatchFile:
        """Convert the patches; the caller holds the lock."""
        remove_drafts(self.target)
        source = self.files.images
        with open_dataset(self.files, "x") as dataset:
            _check_room(source, self.target.parent, self.rows * PATCH_BYTES)
            with draft(self.target, MODE) as file:
                header = {"descr": "|u1", "fortran_order": False, "shape": self._shape}
                np.lib.format.write_array_header_1_0(file, header)
                file.flush()
                offset = file.tell()

                def store(start: int, pixels: np.ndarray) -> None:
                    # Not through a memory map: a full disk would kill the process with SIGBUS.
                    _write_at(file.fileno(), pixels, offset + start * PATCH_BYTES)

                cleaning = _clean(dataset, source, self.scale, "converting", store)
        facts = {"source": self._source, "digest": self._digest(), "cleaning": asdict(cleaning)}
        write_json(self.record, facts)
        return PatchFile(self.target, offset, self.rows, cleaning)

    def _checked(self, record: dict[str, Any]) -> PatchFile:
        """Return the copy; raise ValueError, TypeError or OSError if it is not valid."""
        if not isinstance(record.get("cleaning"), dict):
            raise ValueError("its record is damaged")
        cleaning = Cleaning(**{key: int(value) for key, value in record["cleaning"].items()})
        with self.target.open("rb") as file:
            if np.lib.format.read_magic(file) != (1, 0):
                raise ValueError("it has another format")
            header = np.lib.format.read_array_header_1_0(file)
            offset = file.tell()
        if header != (self._shape, False, np.dtype(np.uint8)):
            raise ValueError(f"it holds {header[2]} {header[0]}, expected uint8 {self._shape}")
        if self.target.stat().st_size != offset + self.rows * PATCH_BYTES:
            raise ValueError("it has another size")
        if self._digest() != record.get("digest"):
            raise ValueError("its bytes have changed")
        return PatchFile(self.target, offset, self.rows, cleaning)

    def _digest(self) -> str:
        def read() -> str:
            return xxhash.xxh3_128_hexdigest(np.memmap(self.target, np.uint8, "r").data)

        return Ledger(self.target.parent).recall([self.target], "xxh3_128", read)

    @property
    def _shape(self) -> tuple[int, ...]:
        return self.rows, *PATCH_SHAPE

    @property
    def _source(self) -> str:
        return os.path.relpath(self.files.images, self.target.parent)


def _remove_outdated(files: SplitFiles, folder: Path, digest: str) -> None:
    """Remove this user's copies of earlier contents of a source; the caller holds the lock."""
    stem = rf"\.?({re.escape(files.images.stem)}_v\d+_([0-9a-f]+)(?:_.*)?)"
    pattern = re.compile(stem + r"\.(npy|json|lock|npy\.[0-9a-f]+\.tmp|partial)")
    source = os.path.relpath(files.images, folder)
    found = [(path, match) for path in folder.iterdir() if (match := pattern.fullmatch(path.name))]
    for path, match in sorted(found, key=lambda each: each[0].suffix == ".json"):
        if match[2] == digest or path.lstat().st_uid != os.getuid():
            continue
        record = read_json(folder / f"{match[1]}.json", os.getuid())
        # A chosen cache folder may hold copies of other data sets' files of the same name.
        if folder == files.root / ".uint8" or record.get("source") == source:
            path.unlink(missing_ok=True)
            if path.suffix == ".npy":
                log.info("removed %s, a copy of an earlier %s", path, files.images.name)


def _clean(
    dataset: h5py.Dataset,
    path: Path,
    scale: Scale,
    verb: str,
    store: Callable[[int, np.ndarray], None],
) -> Cleaning:
    """Pass each run of uint8 patches, with its first row, to `store`; count the cleaned values."""
    log.info("%s %s (%d patches of %s)", verb, path.name, dataset.shape[0], dataset.dtype)

    def clean(start: int, raw: np.ndarray) -> tuple[int, Cleaning]:
        pixels, changes = to_uint8(raw, scale)
        store(start, pixels)
        return len(raw), changes.total()

    total = Cleaning()
    name = f"{verb} {path.name}"
    with tqdm(total=dataset.shape[0], desc=name, unit="patch", disable=None) as bar:
        for count, cleaning in map_chunks(dataset, path, clean):
            total += cleaning
            bar.update(count)
    return total


def _write_at(descriptor: int, pixels: np.ndarray, position: int) -> None:
    rest = np.ascontiguousarray(pixels).data.cast("B")
    while rest:  # one call may write fewer bytes
        written = os.pwrite(descriptor, rest, position)
        rest, position = rest[written:], position + written


def _check_room(source: Path, folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f"{folder}: the uint8 copy of {source.name} needs {needed / 1e9:.2f} GB and "
            f"{free / 1e9:.2f} GB are free; expected enough space, another data.cache_dir, or "
            "data.cache=false"
        )
