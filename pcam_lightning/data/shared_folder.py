"""Files in folders that other users can write to, where any file may be forged."""

import glob
import json
import logging
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pcam_lightning.files import draft, encode_json

log = logging.getLogger(__name__)

JSON_BYTES = 16 * 2**20
"""Size of the largest JSON file that is read."""
MODE = 0o644
"""Permissions of new files: a group that shares the folder cannot change them."""


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically."""
    with draft(path, MODE) as file:
        file.write(encode_json(value))


def is_trusted(path: Path, source_owner: int) -> bool:
    """Return whether a regular file belongs to this user, to root, or to the owner of its source.

    The owner of the source could forge the source itself. Modes do not count: some file systems
    show every file as writable to all.
    """
    try:
        facts = path.lstat()
    except OSError:
        return False
    return stat.S_ISREG(facts.st_mode) and facts.st_uid in (os.getuid(), source_owner, 0)


def read_json(path: Path, source_owner: int) -> dict[str, Any]:
    """Return the JSON object in a trusted file, or an empty one if it is missing or damaged."""
    if not is_trusted(path, source_owner) or path.lstat().st_size > JSON_BYTES:
        return {}
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def remove_drafts(target: Path) -> None:
    """Remove the drafts of `target` that a killed process left; the caller holds the lock."""
    for path in target.parent.glob(f".{glob.escape(target.name)}.*.tmp"):
        path.unlink()


@contextmanager
def exclusive(path: Path, task: str) -> Iterator[None]:
    """Run the block in one process at a time, by a lock file.

    Args:
        path: the lock file.
        task: what the lock protects, in the log line of a process that waits.

    Raises:
        OSError: the folder cannot be written, or its file system has no locks.
    """
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        log.info("waiting for another process to %s", task)
        lock.acquire()
    except NotImplementedError as error:
        raise OSError(str(error)) from None
    try:
        yield
    finally:
        lock.release()
