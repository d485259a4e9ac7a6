"""Reader of bundles: archives of a trained model that come from anyone.

A bundle is one folder, zipped or not. Nothing in it is extracted, executed or trusted as a path.
"""

import hashlib
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pcam_lightning.errors import InputError, one_line
from pcam_lightning.runs import legacy
from pcam_lightning.runs.bundle_files import (
    NAME,
    BundleFiles,
    FolderFiles,
    ZipFiles,
    open_regular,
)
from pcam_lightning.runs.bundle_metadata import FORMAT_VERSION, BundleMetadata
from pcam_lightning.runs.contents import checked
from pcam_lightning.runs.features import Features
from pcam_lightning.runs.files import JSON_BYTES, RunFileError, decode_json
from pcam_lightning.runs.threshold import Threshold

CHECKSUMS = "SHA256SUMS"
SIGNATURE = "model.sig"
METADATA = "configs/metadata.json"
FEATURES = "configs/features.json"
WEIGHTS = "models/model.safetensors"

MAX_CHECKSUMS_BYTES = 1 << 20
MAX_READ_BYTES = 4 << 30
"""Size of the largest file that is read into memory."""
CHUNK = 1 << 20

_SUM = re.compile(r"([0-9a-f]{64})  (.+)", re.ASCII)
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
    OverflowError,
)
"""Exceptions of `zipfile` for damaged archives."""


class Bundle:
    """A bundle whose files have been compared with their digests.

    The file itself is opened again for every `read`, which compares the digest again.

    Args:
        path: a .zip file, or the folder unpacked from one.

    Raises:
        InputError: a file is missing, changed, unlisted or unsafe, or the format is newer. The text
            is one line that names the file.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        with self._opened() as files:
            self._digests = self._check(files)
        self.metadata = self._read_metadata()

    def __repr__(self) -> str:
        return f"Bundle({str(self.path)!r})"

    @property
    def names(self) -> list[str]:
        """Names of all files except SHA256SUMS and the signature, sorted."""
        return sorted(self._digests)

    @property
    def threshold(self) -> Threshold | None:
        """The run's threshold, for probabilities before calibration; None if none was chosen."""
        return self.metadata.threshold

    @property
    def features(self) -> dict[str, Any] | None:
        """The appearance of the training patches (see `runs.features`); None if not included."""
        if FEATURES not in self._digests:
            return None
        where = f"{self.path}: {FEATURES}"
        return checked(where, decode_json(where, self._read(FEATURES, JSON_BYTES)), Features)

    def weights(self) -> bytes:
        """Return the network's state dictionary, in the safetensors format."""
        return self.read(WEIGHTS)

    def read(self, name: str) -> bytes:
        """Return the content of a file such as "models/model.onnx"."""
        return self._read(name, MAX_READ_BYTES)

    def _read_metadata(self) -> BundleMetadata:
        where = f"{self.path}: {METADATA}"
        value = legacy.translate(decode_json(where, self._read(METADATA, JSON_BYTES)))
        version = value.get("format_version")
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise InputError(
                f"{where}: format_version={version}, expected at most {FORMAT_VERSION}; "
                "a newer version of this package reads it"
            )
        return BundleMetadata(**checked(where, value, BundleMetadata))

    def _read(self, name: str, limit: int) -> bytes:
        if name not in self._digests:
            raise RunFileError(f"{self.path}: {name} is missing from the bundle")
        with self._opened() as files:
            content = files.read(name, limit)
        if hashlib.sha256(content).hexdigest() != self._digests[name]:
            raise RunFileError(f"{self.path}: {name} has changed since the bundle was opened")
        return content

    def _check(self, files: "BundleFiles") -> dict[str, str]:
        """Compare all files with SHA256SUMS and return the digests by name."""
        digests = self._parse(files.read(CHECKSUMS, MAX_CHECKSUMS_BYTES))
        present = files.sizes.keys() - {CHECKSUMS, SIGNATURE}
        if missing := sorted(digests.keys() - present):
            raise InputError(f"{self.path}: {missing[0]} is listed in {CHECKSUMS} but missing")
        if unlisted := sorted(present - digests.keys()):
            raise InputError(f"{self.path}: {unlisted[0]} is not listed in {CHECKSUMS}")
        for name, digest in digests.items():
            sha256 = hashlib.sha256()
            with files.open(name) as stream:
                while chunk := stream.read(CHUNK):
                    sha256.update(chunk)
            if sha256.hexdigest() != digest:
                raise InputError(f"{self.path}: {name} differs from its digest in {CHECKSUMS}")
        return digests

    def _parse(self, content: bytes) -> dict[str, str]:
        digests: dict[str, str] = {}
        *lines, rest = content.decode("ascii", "replace").split("\n")
        if rest:
            raise InputError(f"{self.path}: {CHECKSUMS}: the last line is not complete")
        for number, line in enumerate(lines, 1):
            match = _SUM.fullmatch(line)
            if not match or not NAME.fullmatch(match[2]) or match[2] in digests:
                raise InputError(
                    f"{self.path}: {CHECKSUMS}, line {number}: {one_line(line, 80)!r}, "
                    "expected a SHA-256, two spaces and a file name, each once"
                )
            digests[match[2]] = match[1]
        return digests

    @contextmanager
    def _opened(self) -> Iterator["BundleFiles"]:
        try:
            if self.path.is_dir():
                yield FolderFiles(self.path)
                return
            with open_regular(self.path) as stream:
                yield ZipFiles(self.path, stream)
        except InputError:
            raise
        except OSError as error:
            raise InputError(
                f"{error.filename or self.path} cannot be read: {error.strerror or one_line(error)}"
            ) from None
        except _DAMAGE as error:
            raise InputError(f"{self.path}: damaged archive ({one_line(error, 120)})") from None
