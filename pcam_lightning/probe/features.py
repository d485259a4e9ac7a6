"""Feature files: the features of every patch of a split, computed once and mapped when read.

A file is float16 [N, F] in NumPy's format, with a record (`.json`) beside it. Its name holds a
digest of all that its content depends on: backbone, preprocessing, precision and pixels.
"""

import io
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray
from tqdm import tqdm

from pcam_lightning.data.ledger import Ledger
from pcam_lightning.data.shared_folder import MODE, exclusive, is_trusted, read_json, write_json
from pcam_lightning.errors import InputError, one_line
from pcam_lightning.probe.extraction import Extractor

VERSION = 1
"""Part of every key; to be raised when the same backbone and pixels would give other features."""
SECONDS_BETWEEN_SAVES = 5.0
"""Interval at which computed features become durable; a killed process loses at most as much."""
CHUNK_ROWS = 8192
"""Rows that are converted at a time when features are loaded."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FeatureFile:
    """The features of a split, computed or found.

    Args:
        images: H5 file of the patches.
        folder: folder of the feature files.
        facts: everything that the features depend on, of plain JSON types.
        shape: rows and features of each row.
    """

    images: Path
    folder: Path
    facts: Mapping[str, Any]
    shape: tuple[int, int]

    @property
    def key(self) -> str:
        """Digest (hex) of the facts."""
        facts = {"version": VERSION, **self.facts}
        return xxhash.xxh3_128_hexdigest(json.dumps(facts, sort_keys=True).encode())

    def find(self, quietly: bool = True) -> Path | None:
        """Return the valid file of this user, the data's owner or root; None without one.

        An invalid file is logged unless `quietly`, since `make` searches again.

        Raises:
            InputError: the folder cannot be used.
        """
        with _reported(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            owner = self.images.stat().st_uid
            for user in dict.fromkeys((os.getuid(), owner, 0)):
                path = self._path(user)
                if os.path.lexists(path.with_suffix(".json")) and self._is_valid(path, quietly):
                    return path
        return None

    def make(self, extractor: Extractor, pixels: Any) -> tuple[Path, bool]:
        """Return the file, and whether this process has computed features for it.

        Processes that start together compute once. A process that was killed left its durable
        features, and the next one continues after them.

        Args:
            extractor: network, batch size and device.
            pixels: the patches, sliced like an array, uint8 [N, 96, 96, 3].

        Raises:
            InputError: a feature is not finite, or the folder cannot be written.
        """
        path = self._path(os.getuid())
        with (
            _reported(self.folder),
            exclusive(path.with_suffix(".lock"), f"compute features of {self.images.name}"),
        ):
            if found := self.find(quietly=False):
                return found, False
            if os.path.lexists(path.with_suffix(".json")):  # an invalid file
                path.unlink(missing_ok=True)
            if not self._is_complete(path):
                self._compute(path, extractor, pixels)
            facts = {**self.facts, "source": os.path.relpath(self.images, self.folder)}
            write_json(path.with_suffix(".json"), facts | {"digest": _digest(path)})
        return path, True

    def _compute(self, path: Path, extractor: Extractor, pixels: Any) -> None:
        partial = _Partial(path, self.shape)
        with partial.open() as file:
            done = partial.rows
            free, needed = shutil.disk_usage(self.folder).free, (self.shape[0] - done) * partial.row
            if free < needed:
                raise InputError(
                    f"{self.folder}: the features of {self.images.name} need {needed / 1e9:.2f} GB "
                    f"and {free / 1e9:.2f} GB are free; expected enough space, or another folder "
                    "as probe.features_dir"
                )
            if done:
                log.info(
                    "%s: continues after %d of %d rows", self.images.name, *(done, len(pixels))
                )
            name = f"features of {self.images.name}"
            saved = time.monotonic()
            with tqdm(
                total=len(pixels), initial=done, desc=name, unit="patch", disable=None
            ) as bar:
                for features in extractor.extract(pixels, done, self.images.name):
                    partial.append(file, features)
                    bar.update(len(features))
                    if time.monotonic() - saved >= SECONDS_BETWEEN_SAVES:
                        partial.save(file)
                        saved = time.monotonic()
            partial.save(file)
        partial.finish()

    def _path(self, user: int) -> Path:
        return self.folder / f"{self.images.stem}_{self.key}_u{user}.npy"

    def _is_complete(self, path: Path) -> bool:
        """Return whether this user's file lacks only its record: it was renamed when complete."""
        return is_trusted(path, os.getuid()) and _shape_of(path) == self.shape

    def _is_valid(self, path: Path, quietly: bool) -> bool:
        owner = self.images.stat().st_uid
        try:
            if not all(is_trusted(each, owner) for each in (path, path.with_suffix(".json"))):
                raise ValueError("it belongs to another user or is no regular file")
            if (shape := _shape_of(path)) != self.shape:
                raise ValueError(f"it holds {shape}, expected {self.shape}")
            if read_json(path.with_suffix(".json"), owner).get("digest") != _digest(path):
                raise ValueError("its bytes have changed")
        except (OSError, ValueError) as error:
            if not quietly:
                log.warning("%s: invalid features, not used (%s)", path, one_line(error))
            return False
        return True


class _Partial:
    """An incomplete feature file: rows in order, and a record of the number of durable rows."""

    def __init__(self, target: Path, shape: tuple[int, int]) -> None:
        self._target, self._shape = target, shape
        self._path = target.with_suffix(".partial")
        self._record = target.with_suffix(".partial.json")
        self.row = shape[1] * np.dtype(np.float16).itemsize
        """Bytes of a row."""
        self.rows = 0
        """Durable rows."""

    def open(self) -> BinaryIO:
        """Return the file, open for writing after its last durable row."""
        header = self._header()
        known = read_json(self._record, os.getuid())
        rows = known.get("rows") if known.get("shape") == list(self._shape) else None
        flags = os.O_RDWR | os.O_NOFOLLOW
        if isinstance(rows, int) and is_trusted(self._path, os.getuid()):
            file = os.fdopen(os.open(self._path, flags), "r+b")
            end = len(header) + rows * self.row
            whole = os.fstat(file.fileno()).st_size >= end and file.read(len(header)) == header
            if whole and 0 < rows <= self._shape[0]:
                file.truncate(end)
                file.seek(end)
                self.rows = rows
                return file
            file.close()
        for path in (self._path, self._record):
            path.unlink(missing_ok=True)
        file = os.fdopen(os.open(self._path, flags | os.O_CREAT | os.O_EXCL, MODE), "w+b")
        file.write(header)
        return file

    def _header(self) -> bytes:
        header = {"descr": "<f2", "fortran_order": False, "shape": self._shape}
        buffer = io.BytesIO()
        np.lib.format.write_array_header_1_0(buffer, header)
        return buffer.getvalue()

    def append(self, file: BinaryIO, features: NDArray[np.float16]) -> None:
        file.write(np.ascontiguousarray(features, "<f2").data.cast("B"))
        self.rows += len(features)

    def save(self, file: BinaryIO) -> None:
        """Make the appended rows durable."""
        file.flush()
        os.fsync(file.fileno())
        write_json(self._record, {"shape": list(self._shape), "rows": self.rows})

    def finish(self) -> None:
        os.replace(self._path, self._target)
        self._record.unlink(missing_ok=True)


def load(path: Path, rows: NDArray[np.int64] | None, device: torch.device) -> torch.Tensor:
    """Return the features of these rows (None: of all), float32 [n, F], on a device."""
    mapped = np.load(path, mmap_mode="r")
    count = len(mapped) if rows is None else len(rows)
    every = rows is None or count == len(mapped)  # rows are sorted
    features = torch.empty((count, mapped.shape[1]), device=device)
    for start in range(0, count, CHUNK_ROWS):
        part = slice(start, min(start + CHUNK_ROWS, count))
        chunk = np.array(mapped[part if every else rows[part]])  # type: ignore[index]
        features[part] = torch.from_numpy(chunk).to(device)
    return features


def _digest(path: Path) -> str:
    def read() -> str:
        return xxhash.xxh3_128_hexdigest(np.memmap(path, np.uint8, "r").data)

    return Ledger(path.parent).recall([path], "xxh3_128", read)


def _shape_of(path: Path) -> tuple[int, ...] | None:
    """Return the shape of a complete float16 file, None for any other file."""
    with suppress(OSError, ValueError):
        mapped = np.load(path, mmap_mode="r")
        if mapped.dtype == np.float16 and mapped.flags.c_contiguous:
            return mapped.shape
    return None


@contextmanager
def _reported(folder: Path) -> Iterator[None]:
    """Raise `InputError` for a file of a folder that cannot be read or written in the block."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{folder}: features cannot be stored ({error.strerror or error}); expected a writable "
            "folder with enough space as probe.features_dir"
        ) from None
