"""The data folder: its six files, their shapes, and the place of converted copies."""

import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pcam_lightning.doctor.finding import Finding, green, red, yellow
from pcam_lightning.errors import InputError, one_line

DOWNLOAD = "python -m pcam_lightning.download root="


def examine(data: Mapping[str, Any], digests: bool) -> Iterator[Finding]:
    """Yield findings about the data set that a run would use.

    Args:
        data: section `data` of the config.
        digests: also compare the files with the official digests, which reads them completely.
    """
    from pcam_lightning.data.files import split_files
    from pcam_lightning.data.source import find_root

    named = data["root"] if data["root"] is not None else data["default_root"]
    if named is None:
        yield green("data", f"the demo set in {data['demo']['parent']} was chosen")
        return
    folder = Path(os.path.expanduser(named))
    try:
        _list(folder)
        # Nothing is downloaded here.
        mode = data["on_missing"]
        root = find_root(dict(data) | {"on_missing": "demo" if mode == "demo" else "error"})
    except OSError as error:
        yield red("data", f"{folder}: {error.strerror}", f"ls -ld {folder}; id")
        return
    except InputError as error:
        yield red("data", one_line(error), f"{DOWNLOAD}{folder}")
        return
    if root is None:
        fact = f"{folder} lacks the H5 files: runs use the DEMO set of synthetic patches"
        yield yellow("data", fact, f"{DOWNLOAD}{folder}   # or: export PCAM_ROOT=FOLDER")
        return
    yield green("data", f"{folder} has the six H5 files")
    copies = 0
    for split, files in split_files(root, data["keys"], data["cache_dir"]).items():
        try:
            fact, size = _examine_split(files)
        except (InputError, OSError) as error:
            yield red(split, one_line(error), f"{DOWNLOAD}{root} check=true")
            continue
        copies += size
        yield green(split, fact)
    yield _examine_copies(root, data, copies)
    if digests:
        yield from _examine_digests(root)


def _list(folder: Path) -> None:
    """Raise OSError if a folder exists and cannot be read."""
    if os.path.lexists(folder):
        for name in os.listdir(folder):
            if name.endswith(".h5") and (folder / name).is_file():
                (folder / name).open("rb").close()


def _examine_split(files: Any) -> tuple[str, int]:
    """Return a line about the files of a split, and the size of the copy that a run makes of them.

    The first and the last patch are read. Raises InputError for a damaged file.
    """
    from pcam_lightning.data.cache import mapped_in_place
    from pcam_lightning.data.files import PATCH_BYTES, check_split, open_dataset, read_rows

    for part in ("x", "y"):
        if not any(os.path.isfile(files.root / name) for name in files.names(part)):
            return "packed (.h5.gz): the first run unpacks it", 0
    rows = check_split(files)
    with open_dataset(files, "x") as images:
        for start in (0, rows - 1):
            read_rows(images, files.images, start, start + 1)
        stored = f"{rows:,} patches, {images.dtype}"
    if mapped_in_place(files):
        return f"{stored}, mapped in place", 0
    size = rows * PATCH_BYTES
    return f"{stored}, read through a copy of {size / 1e9:.2f} GB as uint8", size


def _examine_copies(root: Path, data: Mapping[str, Any], size: int) -> Finding:
    """Return a finding about the folder of unpacked files and copies, which need `size` bytes."""
    cache_dir = data["cache_dir"]
    folder = Path(os.path.expanduser(cache_dir)) if cache_dir else root / ".uint8"
    place = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    writable, free = os.access(place, os.W_OK), shutil.disk_usage(place).free
    state = f"{folder} is {'writable' if writable else 'read-only'}, {free / 1e9:.1f} GB free"
    mend = "python -m pcam_lightning.train data.cache_dir=/scratch/$USER/pcam"
    if size and data["cache"] and not writable:
        return yellow("copies", f"{state}, but copies are needed", mend)
    if size and data["cache"] and free < size:
        return yellow("copies", f"{state}, the copies need up to {size / 1e9:.1f} GB", mend)
    return green("copies", f"{state}; copies needed: {size / 1e9:.1f} GB")


def _examine_digests(root: Path) -> Iterator[Finding]:
    from pcam_lightning.data.download import check_files, official_files

    states = check_files(root, official_files())
    files = {name: state for name, state in states.items() if name.endswith(".h5")}
    others = [name for name, state in files.items() if state != "official"]
    if others:
        fact = f"{len(others)} of 6 files are not the official ones, the first is {others[0]}"
        yield yellow("digests", fact, f"{DOWNLOAD}{root} check=true")
    else:
        yield green("digests", "all six files are the official ones")
