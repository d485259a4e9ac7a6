"""A copy of the code as it was when a sweep was submitted, from which its jobs run.

A snapshot lies in `SWEEP/.code/DIGEST/` and holds the package, `conf/`, the user's modules that a
config names, `snapshot.json` and `code.patch`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shlex
import shutil
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pcam_lightning.errors import InputError
from pcam_lightning.files import atomic_write, write_json
from pcam_lightning.runs.checkout import PACKAGE, Checkout, read_checkout
from pcam_lightning.runs.files import RunFileError, read_json

FOLDER = ".code"
USER_SUFFIXES = (".py", ".pyi", ".yaml", ".yml", ".json")
MOST_FILES, MOST_BYTES = 2_000, 50_000_000
"""Limits of the user's own code; a package folder may also hold data."""


@dataclass(frozen=True)
class Snapshot:
    """A copy of the code.

    Attributes:
        folder: absolute folder of the copy.
        digest: SHA-256 of the names and contents of its files, in 16 hex digits.
        notes: a line for each of the user's modules that is not in the copy.
    """

    folder: Path
    digest: str
    notes: tuple[str, ...] = ()

    def exports(self) -> list[str]:
        """Return shell lines after which Python imports the copy, whatever the current folder is.

        Python would otherwise prefer the current folder, such as a clone that has changed since.
        The submitter's own import paths follow the copy.
        """
        paths = [str(self.folder)]
        paths += [os.path.abspath(path) for path in _python_path() if path]
        if not sys.flags.safe_path:
            paths.append(os.getcwd())
        value = os.pathsep.join(dict.fromkeys(paths))
        return ["export PYTHONSAFEPATH=1", f"export PYTHONPATH={shlex.quote(value)}"]


def take_snapshot(sweep: Path, conf: Path, targets: Iterable[str] = ()) -> Snapshot:
    """Copy the running package, its configs and the user's modules into a sweep's folder.

    The same code is copied once. A copy appears complete or not at all.

    Args:
        sweep: folder of the sweep.
        conf: folder of the config tree.
        targets: the `_target_` names of the jobs' configs. Modules of installed packages are not
            copied.

    Raises:
        InputError: PYTHONPATH cannot name the folder.
    """
    if os.pathsep in str(sweep.absolute()):
        raise InputError(
            f"{sweep}: Python cannot import from a folder with {os.pathsep!r} in its name; "
            "expected another hydra.sweep.dir, or hydra.launcher.snapshot=false"
        )
    files = {f"{PACKAGE.name}/{name}": path for name, path in _files(PACKAGE)}
    if not conf.is_relative_to(PACKAGE):
        files |= {f"{conf.name}/{name}": path for name, path in _files(conf)}
    notes = []
    for module in sorted({target.partition(".")[0] for target in targets} - {PACKAGE.name}):
        found = _user_files(module)
        if len(found) > MOST_FILES or _size(found) > MOST_BYTES:
            notes.append(f"{module} is too large to copy; jobs import it as it is when they start")
        else:
            files |= found
    content = {name: path.read_bytes() for name, path in sorted(files.items())}
    digest = _digest(content)
    folder = sweep.absolute() / FOLDER / digest
    if not (folder / "snapshot.json").is_file():
        _write(folder, digest, content)
    return Snapshot(folder, digest, tuple(notes))


def read_snapshot(package: Path = PACKAGE) -> dict[str, Any] | None:
    """Return the `snapshot.json` beside a package, with its `folder`; None outside a snapshot."""
    path = package.parent / "snapshot.json"
    if package.parent.parent.name != FOLDER or not path.is_file():
        return None
    try:
        return read_json(path) | {"folder": str(package.parent)}
    except RunFileError:
        return None


def code_state(package: Path = PACKAGE) -> Checkout:
    """Return the commit and changes of the running code; in a snapshot, those at submission."""
    facts = read_snapshot(package)
    if facts is None:
        return read_checkout(package)
    checkout = facts.get("checkout")
    known: Mapping[str, Any] = checkout if isinstance(checkout, dict) else {}
    patch = package.parent / "code.patch"
    return Checkout(
        commit=known.get("commit"),
        branch=known.get("branch"),
        dirty=known.get("dirty"),
        patch=patch.read_bytes() if patch.is_file() else None,
        left_out=tuple(known.get("left_out") or ()),
        note=known.get("note"),
    )


def _write(folder: Path, digest: str, content: Mapping[str, bytes]) -> None:
    draft = folder.with_name(f".{folder.name}.{os.urandom(8).hex()}.tmp")
    try:
        for name, data in content.items():
            path = draft / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        checkout = code_state()
        if checkout.patch is not None:
            atomic_write(draft / "code.patch", checkout.patch)
        facts = {key: value for key, value in asdict(checkout).items() if key != "patch"}
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        write_json(
            draft / "snapshot.json",
            {"digest": digest, "taken": now, "package": PACKAGE, "checkout": facts},
        )
        try:
            draft.rename(folder)
        except OSError:
            if not (folder / "snapshot.json").is_file():  # not another submission of the same code
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _files(folder: Path, suffixes: tuple[str, ...] = ()) -> Iterable[tuple[str, Path]]:
    """Yield the files below a folder, with their relative names, except compiled ones."""
    for path in folder.rglob("*"):
        name = path.relative_to(folder)
        hidden = any(part.startswith(".") or part == "__pycache__" for part in name.parts)
        if not hidden and path.is_file() and (not suffixes or path.suffix in suffixes):
            yield name.as_posix(), path


def _user_files(module: str) -> dict[str, Path]:
    """Return the files of a module of the user, by the name in a snapshot."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return {}
    places = [Path(place) for place in (spec and spec.submodule_search_locations) or ()]
    origin = Path(spec.origin) if spec and spec.has_location and spec.origin else None
    if any(_is_installed(place) for place in (*places, *([origin] if origin else []))):
        return {}
    if places:
        return {f"{module}/{name}": path for name, path in _files(places[0], USER_SUFFIXES)}
    return {origin.name: origin} if origin else {}


def _is_installed(path: Path) -> bool:
    """Return whether a path belongs to Python or to an installed package."""
    if {"site-packages", "dist-packages"} & set(path.parts):
        return True
    return path.is_relative_to(sysconfig.get_paths()["stdlib"])


def _size(files: Mapping[str, Path]) -> int:
    return sum(path.stat().st_size for path in files.values())


def _digest(content: Mapping[str, bytes]) -> str:
    digest = hashlib.sha256()
    for name, data in content.items():
        digest.update(f"{name}\0{hashlib.sha256(data).hexdigest()}\n".encode())
    return digest.hexdigest()[:16]


def _python_path() -> list[str]:
    return os.environ.get("PYTHONPATH", "").split(os.pathsep)
