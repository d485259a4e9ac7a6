"""Atomic writing of files, and encoding of JSON."""

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import date
from pathlib import Path
from typing import Any, BinaryIO


@contextmanager
def draft(target: Path, mode: int = 0o666) -> Iterator[BinaryIO]:
    """Yield a new file beside `target`, open for writing, that replaces `target` at the end.

    If the block raises, the draft is removed and `target` keeps its content. The draft's name is
    random and no link is followed, so that nobody can redirect the write.

    Args:
        target: the file to write.
        mode: permissions of the new file, before the user's umask applies.
    """
    # Files of `tempfile` are private to one user; run folders are shared by a team.
    path = target.with_name(f".{target.name}.{os.urandom(8).hex()}.tmp")
    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with open(os.open(path, flags, mode), "w+b") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(path, target)
    except BaseException:
        with suppress(OSError):
            path.unlink(missing_ok=True)
        raise


def nearest_folder(path: Path) -> Path:
    """Return a path, or the nearest folder above it that exists."""
    path = path.absolute()
    return next(each for each in (path, *path.parents) if each.is_dir())


def atomic_write(path: str | os.PathLike[str], content: bytes | str) -> None:
    """Write a file completely or not at all: neither a reader nor a crash leaves half of it.

    Creates missing parent folders and writes text as UTF-8. If the write fails, `path` keeps its
    content, and the `filename` of the OSError is `path`.
    """
    target = Path(path)
    data = content.encode() if isinstance(content, str) else content
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with draft(target) as stream:
            stream.write(data)
    except OSError as error:
        error.filename = str(target)  # a failed write does not name its file
        raise


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write `value` as indented UTF-8 JSON, atomically, in the order of its keys.

    NaN and infinities, which JSON lacks, become null. NumPy scalars and arrays, tensors, paths,
    dates, tuples and sets become plain values. Raises TypeError for any other type.
    """
    atomic_write(path, encode_json(value))


def encode_json(value: Any) -> bytes:
    """Return the bytes that `write_json` writes."""
    text = json.dumps(_plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    # Python holds a file name that is not UTF-8 as lone surrogates. Written as \udcXX, they are
    # valid JSON and read back to the same name.
    return text.encode("utf-8", errors="backslashreplace")


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(_plain(item) for item in value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, date):
        return value.isoformat()
    if hasattr(value, "tolist"):  # NumPy and torch, without importing either
        return _plain(value.tolist())
    raise TypeError(f"cannot write a {type(value).__name__} as JSON: {value!r:.100}")
