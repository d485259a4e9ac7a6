"""Files in folders that other users can write to.

A file of another user may be planted: a link to a file of ours, or contents that lie.
"""

import json
import logging
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

log = logging.getLogger(__name__)

JSON_BYTES = 16 * 2**20
"""Size of the largest JSON file that is read."""


@contextmanager
def draft(target: Path) -> Iterator[BinaryIO]:
    """Yield a new file beside `target`, open for writing, that becomes `target` in the end.

    Nobody can foresee the draft's name, so nobody can have put a link there. If the block raises,
    the draft is removed and `target` is left as it was.
    """
    path = target.with_name(f"{target.name}.{os.urandom(8).hex()}.partial")
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    descriptor = os.open(path, flags, 0o644)
    try:
        with open(descriptor, "w+b") as file:
            yield file
            file.flush()
            os.fsync(descriptor)
        os.replace(path, target)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file whole or not at all."""
    with draft(path) as file:
        file.write(json.dumps(value).encode())


def is_trusted(path: Path, source_owner: int) -> bool:
    """Whether a regular file belongs to this user, to root, or to the owner of its source.

    The owner of the source could deceive us anyway. Modes are not looked at: some file systems
    show every file as writable to all.
    """
    try:
        facts = path.lstat()
    except OSError:
        return False
    return stat.S_ISREG(facts.st_mode) and facts.st_uid in (os.getuid(), source_owner, 0)


def read_json(path: Path, source_owner: int) -> dict[str, Any]:
    """Return the JSON object in a trusted file; an empty one where there is none, or damage."""
    if not is_trusted(path, source_owner) or path.lstat().st_size > JSON_BYTES:
        return {}
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


@contextmanager
def exclusive(path: Path, waiting: str) -> Iterator[None]:
    """Let one process at a time into the block, by a lock file; `waiting` is logged by the others.

    Raises:
        OSError: the folder cannot be written, or its file system has no locks.
    """
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        log.info("waiting for another process to %s", waiting)
        lock.acquire()
    except NotImplementedError as error:
        raise OSError(str(error)) from None
    try:
        yield
    finally:
        lock.release()
