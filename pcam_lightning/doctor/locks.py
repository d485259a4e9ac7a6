"""File locks between processes, on the disk of the run folders."""

import fcntl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from pcam_lightning.doctor.disk import new_file
from pcam_lightning.doctor.finding import Finding, green, yellow
from pcam_lightning.files import nearest_folder

HELD, SECONDS = 75, 30
KINDS = {"flock": "flock", "lockf": "fcntl"}
"""Functions of Python's module fcntl, and the system calls behind them."""
PROGRAM = f"""
import fcntl, sys
try:
    getattr(fcntl, sys.argv[1])(open(sys.argv[2], "r+b"), fcntl.LOCK_EX | fcntl.LOCK_NB)
except (BlockingIOError, PermissionError):
    sys.exit({HELD})
"""
"""A program that exits with `HELD` if another process holds the lock."""
LOCAL_OPTIONS = ("nolock", "local_lock=all", "local_lock=flock", "local_lock=posix", "localflock")
"""Options of NFS and Lustre mounts with which locks exclude processes of the same machine only."""


def examine(outputs: Path, mounts: Path = Path("/proc/self/mountinfo")) -> Iterator[Finding]:
    """Yield a finding about locks; what cannot be locked is not safe against a second start."""
    folder = nearest_folder(outputs)
    try:
        broken = [name for function, name in KINDS.items() if not _excludes(folder, function)]
    except OSError as error:
        yield yellow("locks", f"{folder}: cannot be tested ({error.strerror})", f"df -h {folder}")
        return
    kind, options = find_mount(folder, mounts)
    mend = "export PCAM_OUTPUTS=FOLDER   # on a disk with locks; or start each run once only"
    if broken:
        fact = f"{folder} ({kind}): {', '.join(broken)} excludes no second process"
        yield yellow("locks", fact, mend)
    elif local := [option for option in options if option in LOCAL_OPTIONS]:
        fact = f"{folder} ({kind}, {local[0]}): locks exclude processes of this machine only"
        yield yellow("locks", fact, mend)
    else:
        yield green("locks", f"{folder} ({kind}): flock and fcntl exclude a second process")


def _excludes(folder: Path, function: str) -> bool:
    """Return whether a lock of this process keeps another process from locking the file."""
    with new_file(folder) as path, path.open("r+b") as file:
        try:
            getattr(fcntl, function)(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # a file system without locks
            return False
        command = [sys.executable, "-S", "-E", "-c", PROGRAM, function, str(path)]
        try:
            other = subprocess.run(command, capture_output=True, timeout=SECONDS)
        except subprocess.TimeoutExpired:
            return False
        return other.returncode == HELD


def find_mount(folder: Path, mounts: Path) -> tuple[str, list[str]]:
    """Return the file system's type and the mount options of a folder."""
    found, depth = ("unknown file system", list[str]()), -1
    try:
        lines = mounts.read_text(errors="replace").splitlines()
    except OSError:
        return found
    for line in lines:
        # proc(5): id, parent, device, root, mount point, options, ... - type, source, options
        left, _, right = line.partition(" - ")
        point = Path(left.split()[4].replace("\\040", " "))
        kind, _, options = [*right.split(), "", ""][:3]
        if folder.is_relative_to(point) and len(point.parts) >= depth:
            found, depth = (kind, options.split(",")), len(point.parts)
    return found
