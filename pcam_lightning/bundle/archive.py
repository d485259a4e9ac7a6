"""Writer of bundles: the same files give the same bytes of the archive, on every machine."""

import hashlib
import io
import os
import stat
import zipfile
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import BinaryIO

from pcam_lightning.bundle.signature import sign_files
from pcam_lightning.errors import InputError
from pcam_lightning.files import draft
from pcam_lightning.runs.bundle import CHECKSUMS, CHUNK, SIGNATURE
from pcam_lightning.runs.bundle_files import MAX_FILES, NAME

SCRIPTS = ("predict.py", "verify.py")
"""Files that the archive marks as executable."""
TRAVEL = Path(__file__).parent / "travel"
TIME = (1980, 1, 1, 0, 0, 0)
"""The earliest time that the .zip format can express."""


def travel_files() -> dict[str, bytes]:
    """Return the scripts that are part of every bundle by their names."""
    return {name: (TRAVEL / name).read_bytes() for name in SCRIPTS}


def check_target(path: Path) -> None:
    """Raise InputError if there is already a file at the path of a bundle."""
    if os.path.lexists(path):
        raise InputError(f"{path} exists already, expected a path for a new file")


def write_archive(
    path: Path, top: str, files: Mapping[str, bytes | Path], key: Path | None = None
) -> None:
    """Write files as a .zip with one folder, and add SHA256SUMS, without compression.

    Files are read in pieces, so that they may be larger than memory. The archive appears at `path`
    when it is complete. Without a signature, its bytes depend on the arguments alone.

    Args:
        path: a new file; missing folders are created.
        top: name of the folder.
        files: contents, or the files that hold them, by their names in the folder.
        key: private key to sign the files with, which adds `model.sig`.

    Raises:
        InputError: there is a file at `path`, or a name would not be safe in an archive.
        OSError: a file cannot be read or written; its `filename` is set.
    """
    check_target(path)
    reserved = {CHECKSUMS, SIGNATURE}
    bad = [name for name in files if not NAME.fullmatch(f"{top}/{name}") or name in reserved]
    if bad or "/" in top:
        raise InputError(f"{path}: {(bad or [top])[0]!r} cannot be a name in a bundle")
    if len(files) > MAX_FILES - 2:
        raise InputError(f"{path}: {len(files)} files, expected at most {MAX_FILES - 2}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with draft(path) as stream:
            _write(stream, top, files, key)
            check_target(path)
    except OSError as error:
        error.filename = error.filename or str(path)  # a failed write does not name its file
        raise


def _write(stream: BinaryIO, top: str, files: Mapping[str, bytes | Path], key: Path | None) -> None:
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        digests = {name: _add(archive, top, name, files[name]) for name in sorted(files)}
        sums = "".join(f"{digest}  {name}\n" for name, digest in digests.items()).encode()
        _add(archive, top, CHECKSUMS, sums)
        if key is not None:
            _add(archive, top, SIGNATURE, sign_files(top, {**files, CHECKSUMS: sums}, key))


def _add(archive: zipfile.ZipFile, top: str, name: str, content: bytes | Path) -> str:
    """Add a file to an archive and return its SHA-256."""
    member = zipfile.ZipInfo(f"{top}/{name}", TIME)
    member.create_system = 3  # Unix, whose permissions follow
    member.external_attr = (stat.S_IFREG | (0o755 if name in SCRIPTS else 0o644)) << 16
    sha256 = hashlib.sha256()
    source = content.open("rb") if isinstance(content, Path) else io.BytesIO(content)
    with closing(source):
        member.file_size = source.seek(0, os.SEEK_END)  # decides between 32 and 64 bits
        source.seek(0)
        with archive.open(member, "w") as target:
            while chunk := source.read(CHUNK):
                sha256.update(chunk)
                target.write(chunk)
    return sha256.hexdigest()
