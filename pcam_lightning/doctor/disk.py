"""Disks of the run folders and of temporary files: free space and quota."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pcam_lightning.doctor.finding import Finding, green, red, yellow
from pcam_lightning.errors import one_line
from pcam_lightning.files import nearest_folder

PROBE_BYTES = 16 << 20
"""Size of the file that is written as a test: statvfs knows no quotas."""
RUN_BYTES = 900_000_000
"""Space of a run of resnet50 with Adam: three checkpoints of 0.28 GB (one is a draft), tables."""
LOW_BYTES = 5 * RUN_BYTES
SECONDS = 10
OTHER_OUTPUTS = "export PCAM_OUTPUTS=/scratch/$USER/outputs"


def examine(outputs: Path) -> Iterator[Finding]:
    """Yield findings about the disk of the folder of all runs, and of temporary files."""
    yield examine_outputs(outputs)
    # Not tempfile.gettempdir(), which would look for another folder if this one is full.
    yield _examine_temporary(Path(os.environ.get("TMPDIR") or "/tmp"))
    yield from examine_quota()


def examine_outputs(outputs: Path) -> Finding:
    """Return a finding about the free space for runs; a file is written and removed."""
    folder = nearest_folder(outputs)
    try:
        write_file(folder)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        fact = f"{folder}: {PROBE_BYTES >> 20} MB cannot be written ({error.strerror})"
        return red("outputs", fact, f"df -h {folder}; {OTHER_OUTPUTS}")
    need = f"a run takes up to {RUN_BYTES / 1e9:.1f} GB (resnet50)"
    fact = f"{folder}: {free / 1e9:.1f} GB free; {need}"
    return yellow("outputs", fact, OTHER_OUTPUTS) if free < LOW_BYTES else green("outputs", fact)


def _examine_temporary(folder: Path) -> Finding:
    try:
        write_file(folder)
    except OSError as error:
        fact = f"{folder}: {PROBE_BYTES >> 20} MB cannot be written ({error.strerror})"
        return red("temporary files", fact, f"df -h {folder}; export TMPDIR=/scratch/$USER")
    return green("temporary files", f"{folder}: {shutil.disk_usage(folder).free / 1e9:.1f} GB free")


def examine_quota() -> Iterator[Finding]:
    """Yield a finding about each line of `quota -s`, if there is this command and a quota."""
    try:
        done = subprocess.run(
            ["quota", "-s", "-w"], capture_output=True, text=True, timeout=SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return
    for line in done.stdout.splitlines():
        # filesystem, space (with * if above the quota), quota, limit, grace, files, quota, limit
        words = line.split()
        if len(words) < 6 or not words[1].rstrip("*")[:1].isdigit():
            continue
        fact = one_line(f"{words[0]}: {words[1]} used, quota {words[2]}, limit {words[3]}")
        if any(word.endswith("*") for word in words[1:]):
            yield yellow("quota", f"{fact}: exceeded", f"quota -s; {OTHER_OUTPUTS}")
        else:
            yield green("quota", fact)


def write_file(folder: Path, size: int = PROBE_BYTES) -> None:
    """Write a file and remove it; raise OSError if the folder is full or read-only."""
    with new_file(folder) as path, path.open("r+b") as file:
        for _ in range(0, size, 1 << 20):
            file.write(os.urandom(min(size, 1 << 20)))  # a disk may compress zeros
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def new_file(folder: Path) -> Iterator[Path]:
    """Yield the path of an empty file with a random name, which is removed at the end."""
    path = folder / f".doctor.{os.urandom(8).hex()}.tmp"
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600))
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)
