"""Datasets of H5 files, found by name; links are followed within the folder only."""

import re
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
from h5py import h5l, h5o  # type: ignore[attr-defined]

from pcam_lightning.errors import InputError, one_line

CHUNK_CACHE = 16 * 2**20
"""Bytes of decoded HDF5 chunks to keep; the default of 1 MiB is less than 38 patches."""
MAX_LINKS = 32
"""Maximum number of links to follow; a circle of links has no end."""
MAX_NAMES = 8
"""Maximum number of datasets that a message lists."""


class NoDataset(InputError):
    """A missing dataset in a valid HDF5 file."""


def find_name(path: Path, official: str) -> str:
    """Return `official` if an H5 file has a dataset of this name, else the name of its only one.

    Raises:
        InputError: the file is no valid HDF5 file, or has no or several other datasets.
    """
    file = _open_file(path, official)
    try:
        names = _dataset_names(file)
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise _unreadable(path, official, error) from None
    finally:
        file.close()
    if official in names:
        return official
    if len(names) == 1:
        return names[0]
    raise NoDataset(_no_dataset(path, official, _listed(names)))


def linked_path(file: h5py.File, name: str, folder: Path) -> Path:
    """Return the absolute path of a file named in an open H5 file.

    Raises:
        InputError: the path lies outside of `folder`.
    """
    here = Path(file.filename)
    if name == ".":  # HDF5's name of the file itself
        return here
    path = here
    try:
        path = (here.parent / name).resolve()
        inside = path.is_relative_to(folder) and (path.is_file() or not path.exists())
    except (OSError, RuntimeError, ValueError):  # not a valid file name
        inside = False
    if not inside or re.search(r"%\d*b", name):  # HDF5 would insert numbers
        raise InputError(
            f"{here}: its values lie in the file {name!r}, expected a file in the folder {folder}"
        )
    return path


def find_dataset(path: Path, name: str, folder: Path) -> h5py.Dataset:
    """Open a dataset, whose file the caller closes; its sources are not checked yet.

    HDF5 would follow links to any file; here each link is checked first.
    """
    origin = path
    for _ in range(MAX_LINKS):
        file = _open_file(path, name)
        try:
            found = _follow(file, name)
            if isinstance(found, h5py.Dataset):
                return found
            if found is None:
                there = _listed([each for each in _dataset_names(file) if each != name])
                raise NoDataset(_no_dataset(path, name, there))
            path, name = linked_path(file, found[0], folder), found[1]
        except (OSError, RuntimeError, TypeError, ValueError, KeyError) as error:
            file.close()
            if isinstance(error, InputError):
                raise
            raise _unreadable(path, name, error) from None
        file.close()
    raise InputError(f"{origin}: more than {MAX_LINKS} links, expected a dataset at their end")


def _follow(file: h5py.File, name: str) -> h5py.Dataset | tuple[str, str] | None:
    """Return a dataset of a file, or the file and dataset of a link, or None."""
    group: h5py.Group = file
    parts = deque(part for part in name.split("/") if part not in ("", "."))
    for _ in range(MAX_LINKS):
        if not parts:
            return None
        part = parts.popleft().encode(errors="surrogateescape")
        links = group.id.links
        if not links.exists(part):
            return None
        kind = links.get_info(part).type
        if kind == h5l.TYPE_EXTERNAL:
            file_name, target = links.get_val(part)
            return _text(file_name), "/".join([_text(target), *parts])
        if kind == h5l.TYPE_SOFT:
            target = _text(links.get_val(part))
            group = file if target.startswith("/") else group
            parts.extendleft(reversed([p for p in target.split("/") if p not in ("", ".")]))
            continue
        found = group[part]
        if isinstance(found, h5py.Dataset):
            return None if parts else found
        if not isinstance(found, h5py.Group):
            return None
        group = found
    return None


def _text(name: bytes) -> str:
    return name.decode(errors="surrogateescape")


def _dataset_names(file: h5py.File) -> list[str]:
    """Return the names of all datasets of a file, and of all links, which may lead to some."""
    names = []

    def visit(name: bytes, info: Any) -> None:
        if info.type != h5l.TYPE_HARD or h5o.get_info(file.id, name).type == h5o.TYPE_DATASET:
            names.append(_text(name))

    file.id.links.visit(visit, info=True)
    return names


def _listed(names: list[str]) -> str:
    shown = names[:MAX_NAMES] + ["..."] * (len(names) > MAX_NAMES)
    return one_line(", ".join(shown)) or "no datasets"


def _open_file(path: Path, name: str) -> h5py.File:
    """Open a file for reading, without a lock if it cannot be locked.

    Some file systems have no locks, and another program may have the file open for writing. HDF5
    rejects a file that is open in this process with another kind of lock, so that other readers
    in it, which use the default, would fail if a lock were never taken.
    """
    try:
        if not path.is_file():
            raise InputError(f"{path}: no such file, expected an HDF5 file with {name!r}")
        with suppress(OSError):
            return h5py.File(path, "r", rdcc_nbytes=CHUNK_CACHE)
        return h5py.File(path, "r", rdcc_nbytes=CHUNK_CACHE, locking=False)
    except PermissionError:
        raise InputError(f"{path}: permission denied, expected a readable file") from None
    except OSError as error:
        raise InputError(_invalid(path, name, one_line(error))) from None


def _invalid(path: Path, name: str, reason: str) -> str:
    if "truncated" in reason:
        return f"{path}: truncated ({reason}), expected a complete HDF5 file with {name!r}"
    if "already open for write" in reason or "consistency flags" in reason:
        return (
            f"{path}: a program has it open for writing, or ended before it closed the file "
            f"({reason}); expected a closed HDF5 file with {name!r}"
        )
    return f"{path}: not a valid HDF5 file ({reason}), expected one with {name!r}"


def _no_dataset(path: Path, name: str, there: str) -> str:
    return (
        f"{path}: no dataset {name!r} in it, found {there}; expected data.keys=[images,labels] "
        "with the names of the datasets in the files"
    )


def _unreadable(path: Path, name: str, error: Exception) -> InputError:
    return InputError(
        f"{path}: {name!r} cannot be read ({one_line(error)}), expected a valid HDF5 file"
    )
