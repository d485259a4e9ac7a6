"""Ledger of facts that need a pass over large files, kept until the files change."""

import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path
from typing import Any

import xxhash

from pcam_lightning.data.shared_folder import exclusive, read_json, write_json
from pcam_lightning.errors import InputError

NAME = ".pcam_lightning.json"
"""The ledger's name in a folder of data."""
TICKS = (0.02, 2.0)
"""Seconds in which a second write may leave a file's time unchanged: on most file systems, and on
those that keep whole seconds."""

log = logging.getLogger(__name__)


class Ledger:
    """Known facts about the files of a folder, in a JSON file there or in the user's cache.

    A fact is valid while size, inode and both times of the files are unchanged. The owner of the
    files stores facts beside them, for all users. Other users, and an owner without write
    permission, store facts in `$XDG_CACHE_HOME/pcam_lightning`. A user trusts only the owner's
    facts and their own.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()

    def recall(self, files: Sequence[Path], fact: str, find_out: Callable[[], Any]) -> Any:
        """Return a fact about files; compute it if it is not known.

        Processes that ask at the same time compute it once.

        Args:
            files: all files that the fact is about; some may be missing.
            fact: its name, which includes everything else that its value depends on.
            find_out: computes its value, of plain JSON types.

        Raises:
            InputError: a file changed during the computation.
        """
        owner = files[0].stat().st_uid
        entry = f"{os.path.relpath(files[0], self.folder)}: {fact}"
        known = self._read(entry, owner, self._state(files))
        if known is not None:
            return known["value"]
        with ExitStack() as stack:
            places = [place for place in self._places(owner) if _make(place.parent)]
            for place in places:
                with suppress(OSError):  # without a lock, two processes may compute it
                    lock = place.with_name(f"{place.name}.{os.getuid()}.lock")
                    stack.enter_context(exclusive(lock, f"read {files[0].name}"))
                    break
            _let_time_pass(files)
            state = self._state(files)
            if (known := self._read(entry, owner, state)) is not None:
                return known["value"]
            value = find_out()
            if self._state(files) != state:
                raise InputError(f"{files[0]}: changed while it was read; run the command again")
            known = {"files": state, "value": value}
            self._write(places, entry, known | {"check": _check(known)}, owner)
            return value

    def _read(self, entry: str, owner: int, state: dict[str, Any]) -> dict[str, Any] | None:
        for place in (self.folder / NAME, *self._places(owner)):
            known = read_json(place, owner).get(entry)
            if not isinstance(known, dict) or known.pop("check", None) != _check(known):
                continue
            if known["files"] == state:
                return known
        return None

    def _write(self, places: Sequence[Path], entry: str, known: dict[str, Any], owner: int) -> None:
        for place in places:
            with suppress(OSError):
                write_json(place, read_json(place, owner) | {entry: known})
                return
        _warn(self.folder)

    def _places(self, owner: int) -> list[Path]:
        """Return the paths that this user may write, the best first."""
        places = [self.folder / NAME] if owner == os.getuid() else []
        cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        if os.path.isabs(cache):
            digest = xxhash.xxh3_64_hexdigest(os.fsencode(self.folder))
            places.append(Path(cache) / "pcam_lightning" / f"{digest}.json")
        return places

    def _state(self, files: Sequence[Path]) -> dict[str, Any]:
        """Return the time stamps and sizes of the files by relative path."""
        return {os.path.relpath(file, self.folder): _stamp(file) for file in files}


def _check(known: Any) -> str:
    """Return a digest of an entry, which reveals damage."""
    return xxhash.xxh3_64_hexdigest(json.dumps(known, sort_keys=True).encode())


def _stamp(file: Path) -> list[int] | None:
    try:
        facts = file.stat()
    except OSError:
        return None
    return [facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino]


def _let_time_pass(files: Sequence[Path]) -> None:
    """Wait until the next write to any of the files must change its times."""
    latest = max(max(stamp[1:3]) for file in files if (stamp := _stamp(file)))
    tick = TICKS[0] if latest % 10**9 else TICKS[1]
    age = time.time() - latest / 1e9
    if 0 <= age < tick:
        time.sleep(tick - age)


@cache
def _warn(folder: Path) -> None:
    log.warning("%s: cannot store facts here, so every start reads the files again", folder)


def _make(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return True
