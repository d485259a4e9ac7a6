"""Unpacked copies of gzip-compressed H5 files, as the official release has them."""

import glob
import gzip
import logging
import os
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path

import xxhash
from tqdm import tqdm

from pcam_lightning.data.shared_folder import MODE, exclusive, is_trusted, remove_drafts
from pcam_lightning.errors import InputError, one_line
from pcam_lightning.files import draft

SIGNATURE = b"\x89HDF\r\n\x1a\n"
"""First bytes of an HDF5 file; others may precede them."""
BLOCK = 2**20
"""Bytes to unpack at a time."""
RESERVE = 64 * 2**20
"""Bytes of free space that unpacking leaves."""

log = logging.getLogger(__name__)


def unpacked(packed: Path, limit: int, cache_dir: Path | None = None) -> Path:
    """Return the unpacked copy of `NAME.h5.gz`; unpack it once, atomically, if there is none.

    The copy is `NAME.h5` beside it. If this folder is read-only, the copy is in `cache_dir`, and a
    changed file is unpacked again. Processes that start together unpack once.

    Args:
        packed: the packed file, which is kept.
        limit: bytes of the largest copy.
        cache_dir: the other folder, if there is one.

    Raises:
        InputError: the file is damaged or larger than `limit`, or there is no space or no folder
            that can be written.
    """
    target, outdated = packed.with_suffix(""), None
    if not os.access(packed.parent, os.W_OK):
        if cache_dir is None:
            raise InputError(
                f"{packed}: its folder is read-only, so it cannot be unpacked there; expected "
                "another folder as data.cache_dir, or the unpacked file"
            )
        target, outdated = _cached(packed, cache_dir)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if not _is_valid(target, packed):
            with exclusive(target.with_name(f".{target.name}.lock"), f"unpack {packed.name}"):
                if not _is_valid(target, packed):
                    remove_drafts(target)
                    _unpack(packed, target, limit)
                    for path in target.parent.glob(outdated) if outdated else ():
                        if path != target:
                            path.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(
            f"{packed}: cannot be unpacked to {target} ({error.strerror or one_line(error)}); "
            "expected a folder that can be written, or another one as data.cache_dir"
        ) from None
    return target


def _cached(packed: Path, folder: Path) -> tuple[Path, str]:
    """Return the path of this user's copy in a cache folder, and a pattern of earlier copies."""
    facts = packed.stat()
    source = xxhash.xxh3_64_hexdigest(os.fsencode(packed.resolve()))
    version = xxhash.xxh3_64_hexdigest(f"{facts.st_size} {facts.st_mtime_ns}".encode())
    name, user = f"{packed.name.removesuffix('.h5.gz')}_{source}", f"u{os.getuid()}.h5"
    return folder / f"{name}_{version}_{user}", f"{glob.escape(name)}_*_{user}"


def _is_valid(target: Path, packed: Path) -> bool:
    """Return whether the copy exists; raise InputError for a file that others may have forged."""
    if not os.path.lexists(target):
        return False
    if target.parent != packed.parent and not is_trusted(target, packed.stat().st_uid):
        raise InputError(
            f"{target}: belongs to another user or is no regular file; expected another folder as "
            "data.cache_dir"
        )
    return True


def _unpack(packed: Path, target: Path, limit: int) -> None:
    expected = min(_expected_bytes(packed), limit)  # arbitrary for a truncated file
    room = shutil.disk_usage(target.parent).free - RESERVE
    _check_size(packed, target, expected, limit, room)
    log.info("unpacking %s to %s", packed, target)
    size, text = 0, f"unpacking {packed.name}"
    bar = tqdm(total=expected, desc=text, unit="B", unit_scale=True, disable=None)
    with draft(target, MODE) as file, bar:
        for block in _blocks(packed):
            if not size and SIGNATURE not in block:
                raise InputError(f"{packed}: holds no HDF5 file, expected one packed by gzip")
            size += len(block)
            _check_size(packed, target, size, limit, room)
            file.write(block)
            bar.update(len(block))


def _check_size(packed: Path, target: Path, size: int, limit: int, room: int) -> None:
    if size > limit:
        raise InputError(
            f"{packed}: unpacks to more than {limit / 1e9:.2f} GB, expected less; unpack it by "
            "hand if it is not damaged"
        )
    if size > room:
        raise InputError(
            f"{target.parent}: unpacking {packed.name} needs {size / 1e9:.2f} GB or more and "
            f"{max(0, room) / 1e9:.2f} GB are free; expected enough space"
        )


def _blocks(packed: Path) -> Iterator[bytes]:
    """Yield the unpacked bytes; raise InputError if they are damaged."""
    try:
        with gzip.open(packed) as stream:
            yield stream.read(BLOCK)
            while block := stream.read(BLOCK):
                yield block
    except EOFError:
        raise InputError(f"{packed}: truncated, expected a complete gzip file") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{packed}: damaged ({one_line(error)}), expected a gzip file") from None
    except PermissionError:
        raise InputError(f"{packed}: permission denied, expected a readable file") from None


def _expected_bytes(packed: Path) -> int:
    """Return the unpacked size. Gzip stores its lowest 32 bits; a file hardly grows by packing."""
    with packed.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 4))
        expected = int.from_bytes(file.read(), "little")
    while expected * 1.01 + 1024 < size:
        expected += 2**32
    return expected
