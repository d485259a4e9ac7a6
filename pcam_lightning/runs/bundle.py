"""Reader of bundles: archives of a trained model that come from anyone.

A bundle is one folder, zipped or not. Nothing in it is extracted, executed or trusted as a path.
"""

import hashlib
import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Annotated, Any, BinaryIO, Literal

from pydantic import BaseModel, ConfigDict, Field

from pcam_lightning.errors import InputError, one_line
from pcam_lightning.runs.contents import checked
from pcam_lightning.runs.features import Features
from pcam_lightning.runs.files import JSON_BYTES, RunFileError, decode_json
from pcam_lightning.runs.threshold import Threshold

FORMAT_VERSION = 1
CHECKSUMS = "SHA256SUMS"
SIGNATURE = "model.sig"
METADATA = "configs/metadata.json"
CONFIG = "configs/config.yaml"
FEATURES = "configs/features.json"
WEIGHTS = "models/model.safetensors"
ONNX = "models/model.onnx"
IGNORED = ("__pycache__", ".venv")
"""Folders that appear when somebody runs the scripts of an unpacked bundle."""

MAX_FILES = 2000
MAX_CHECKSUMS_BYTES = 1 << 20
MAX_READ_BYTES = 4 << 30
"""Size of the largest file that is read into memory."""
MAX_TOTAL_BYTES = 32 << 30
"""Size of all files together; wheels for a GPU take about 4 GB."""
MAX_RATIO = 100
"""Unpacked size relative to the archive, beyond 16 MiB; larger ones are zip bombs."""
CHUNK = 1 << 20

_PART = r"[A-Za-z0-9_][A-Za-z0-9._+!-]*"
NAME = re.compile(rf"{_PART}(/{_PART}){{0,7}}", re.ASCII)
"""Names of files: letters, digits and ._+!- between slashes, without hidden files."""
_SUM = re.compile(r"([0-9a-f]{64})  (.+)", re.ASCII)
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    UnicodeError,
    ValueError,
    OverflowError,
)
"""Exceptions of `zipfile` for damaged archives."""

Text = Annotated[str, Field(max_length=100_000)]
Size = int | Text
"""A number, or an expression such as "*" for any number."""


class TensorFormat(BaseModel):
    """An input or output of the network, with the keys of MONAI's bundle specification."""

    model_config = ConfigDict(strict=True, frozen=True)

    type: Text
    format: Text
    modality: Text = "n/a"
    num_channels: Annotated[int, Field(ge=1)]
    spatial_shape: list[Size]
    dtype: Text
    value_range: list[Annotated[float, Field(allow_inf_nan=False)]]
    """[minimum, maximum], or [] where not known."""
    is_patch_data: bool
    channel_def: dict[str, Text]
    """Meaning of each channel by its number."""
    shape: list[Size]
    """Axes of the tensor; MONAI's keys leave their order open."""


class DataFormat(BaseModel):
    """Inputs and outputs of the network by their names."""

    model_config = ConfigDict(strict=True, frozen=True)

    inputs: dict[str, TensorFormat]
    outputs: dict[str, TensorFormat]


NETWORK_DATA_FORMAT = DataFormat(
    inputs={
        "image": TensorFormat(
            type="image",
            format="magnitude",
            modality="H&E",
            num_channels=3,
            spatial_shape=[96, 96],
            dtype="uint8",
            value_range=[0.0, 255.0],
            is_patch_data=True,
            channel_def={"0": "red", "1": "green", "2": "blue"},
            shape=["N", 96, 96, 3],
        )
    },
    outputs={
        "probability": TensorFormat(
            type="probabilities",
            format="classes",
            num_channels=1,
            spatial_shape=[],
            dtype="float32",
            value_range=[0.0, 1.0],
            is_patch_data=False,
            channel_def={"0": "calibrated probability of tumour in the center 32 x 32 pixels"},
            shape=["N"],
        )
    },
)
"""The format of `models/model.onnx` in every bundle of this version."""


class Golden(BaseModel):
    """The patches with known probabilities that `verify.py` predicts."""

    model_config = ConfigDict(strict=True, frozen=True)

    count: Annotated[int, Field(ge=1)]
    tolerance: Annotated[float, Field(gt=0, le=1)] = 1e-4
    """Largest difference of probabilities between two machines."""


class BundleMetadata(BaseModel):
    """`configs/metadata.json`: MONAI's keys first, then the keys of this package.

    Other keys are ignored: later versions within a format version may write more.
    """

    model_config = ConfigDict(strict=True, frozen=True)

    version: Text
    """Of the model."""
    changelog: dict[str, Text]
    """Version of the model -> its change."""
    pytorch_version: Text
    numpy_version: Text
    required_packages_version: dict[str, Text]
    """For the scripts of the bundle."""
    optional_packages_version: dict[str, Text]
    """For the whole package."""
    task: Text
    description: Text
    authors: Text = "not stated"
    copyright: Text = "not stated"
    network_data_format: DataFormat = NETWORK_DATA_FORMAT

    format_version: Annotated[int, Field(ge=1)] = FORMAT_VERSION
    model: dict[str, Any]
    """The config section of the network, with its `_target_`."""
    tta: Literal["none", "d4"]
    """Test-time augmentation in the ONNX graph."""
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None
    """sigmoid(logit / temperature) is the calibrated probability; None without calibration."""
    threshold: Threshold | None
    """The threshold chosen for the run; its value applies to the probability before calibration."""
    decision_threshold: Annotated[float, Field(ge=0, le=2)]
    """Tumour if the calibrated probability, which the ONNX graph returns, is at least this."""
    weights_digest: Text
    """As in the run's summary."""
    golden: Golden
    package_version: Text
    commit: Annotated[str, Field(pattern="^[0-9a-f]{40,64}$")] | None
    """Of the code that made the bundle."""


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
        value = decode_json(where, self._read(METADATA, JSON_BYTES))
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

    def _check(self, files: "_Files") -> dict[str, str]:
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
    def _opened(self) -> Iterator["_Files"]:
        try:
            if self.path.is_dir():
                yield _Folder(self.path)
                return
            with _open_regular(self.path) as stream:
                yield _Zip(self.path, stream)
        except InputError:
            raise
        except OSError as error:
            raise InputError(
                f"{error.filename or self.path} cannot be read: {error.strerror or one_line(error)}"
            ) from None
        except _DAMAGE as error:
            raise InputError(f"{self.path}: damaged archive ({one_line(error, 120)})") from None


class _Files:
    """The files of a bundle by their names, without the top folder."""

    path: Path
    sizes: dict[str, int]

    def open(self, name: str) -> IO[bytes]:
        raise NotImplementedError

    def read(self, name: str, limit: int) -> bytes:
        """Return the content of a file; raise InputError if it is missing or too large."""
        if name not in self.sizes:
            raise InputError(f"{self.path}: {name} is missing from the bundle")
        with self.open(name) as stream:
            content = stream.read(limit + 1) if self.sizes[name] <= limit else b""
        if max(self.sizes[name], len(content)) > limit:
            raise InputError(f"{self.path}: {name} is too large, expected at most {limit:,} bytes")
        return content

    def _check_amount(self) -> None:
        if len(self.sizes) > MAX_FILES:
            raise InputError(f"{self.path}: more than {MAX_FILES} files")
        if sum(self.sizes.values()) > MAX_TOTAL_BYTES:
            raise InputError(f"{self.path}: more than {MAX_TOTAL_BYTES:,} bytes unpacked")
        folded: dict[str, str] = {}
        for name in self.sizes:
            if other := folded.get(name.lower()):
                raise InputError(f"{self.path}: {name} and {other} differ by upper case alone")
            folded[name.lower()] = name


class _Zip(_Files):
    def __init__(self, path: Path, stream: BinaryIO) -> None:
        self.path = path
        size = stream.seek(0, os.SEEK_END)
        _check_directory(path, stream, size)
        self._archive = zipfile.ZipFile(stream)
        members = self._archive.infolist()
        self._members = {}
        for member in members:
            self._check_member(member)
            if member.filename in self._members:
                raise InputError(f"{path}: {member.filename} is in the archive twice")
            self._members[member.filename] = member
        if sum(each.compress_size for each in members) > size:
            raise InputError(f"{path}: overlapping members")
        if sum(each.file_size for each in members) > MAX_RATIO * size + (16 << 20):
            raise InputError(f"{path}: unpacks to more than {MAX_RATIO} times its size")
        tops = {name.partition("/")[0] for name in self._members}
        if len(tops) != 1:
            raise InputError(f"{path}: {len(tops)} folders at its top, expected one with all files")
        self._top = tops.pop() + "/"
        self.sizes = {
            name.removeprefix(self._top): member.file_size
            for name, member in self._members.items()
            if not member.is_dir()
        }
        self._check_amount()

    def open(self, name: str) -> IO[bytes]:
        return self._archive.open(self._members[self._top + name])

    def _check_member(self, member: zipfile.ZipInfo) -> None:
        name, kind = member.filename, stat.S_IFMT(member.external_attr >> 16)
        where = f"{self.path}: {one_line(name, 80)!r}"
        plain = name.removesuffix("/") if member.is_dir() else name
        if not NAME.fullmatch(plain) or member.orig_filename != name:
            raise InputError(f"{where} is no safe name of a file")
        if not member.is_dir() and "/" not in name:
            raise InputError(f"{where} is not in a folder")
        if kind not in (0, stat.S_IFDIR if member.is_dir() else stat.S_IFREG):
            raise InputError(f"{where} is a link or a device, expected a file")
        if member.is_dir() and member.file_size:
            raise InputError(f"{where} is a folder with content")
        if member.flag_bits & 0x41:
            raise InputError(f"{where} is encrypted")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise InputError(f"{where} has compression {member.compress_type}, expected 0 or 8")


class _Folder(_Files):
    def __init__(self, path: Path) -> None:
        self.path = path
        self.sizes = {}
        self._walk(path, "")
        self._check_amount()

    def open(self, name: str) -> IO[bytes]:
        return _open_regular(self.path / name)

    def _walk(self, folder: Path, prefix: str) -> None:
        with os.scandir(folder) as entries:
            for entry in entries:
                name = prefix + entry.name
                where = f"{self.path}: {one_line(name, 80)!r}"
                is_folder = entry.is_dir(follow_symlinks=False)
                if is_folder and (entry.name == IGNORED[0] or name == IGNORED[1]):
                    continue
                if not NAME.fullmatch(name):
                    raise InputError(f"{where} is no safe name of a file")
                if is_folder:
                    self._walk(folder / entry.name, f"{name}/")
                elif entry.is_file(follow_symlinks=False):
                    self.sizes[name] = entry.stat(follow_symlinks=False).st_size
                else:
                    raise InputError(f"{where} is a link or a device, expected a file")
                if len(self.sizes) > MAX_FILES:
                    return  # reported by the caller


def _open_regular(path: Path) -> BinaryIO:
    """Open a regular file; without O_NONBLOCK, opening a pipe waits for a writer."""
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise InputError(f"{path} is not a regular file, expected a .zip or a folder")
    return open(handle, "rb")


def _check_directory(path: Path, stream: BinaryIO, size: int) -> None:
    """Limit the archive's directory before `zipfile` reads all of it into memory."""
    stream.seek(max(0, size - 98))
    tail = stream.read()
    end = tail[-22:]
    if len(end) < 22 or not end.startswith(b"PK\5\6") or end[-2:] != b"\0\0":
        raise InputError(f"{path} is no complete .zip archive")
    count, length = struct.unpack("<HL", end[10:16])
    if tail[-42:-38] == b"PK\6\7":  # the record of large archives, and its locator
        (offset,) = struct.unpack("<Q", tail[-34:-26])
        if offset != size - 98 or not tail.startswith(b"PK\6\6"):
            raise InputError(f"{path}: damaged archive (its directory is not where it should be)")
        count, length = struct.unpack("<QQ", tail[32:48])
    if count > 2 * MAX_FILES or length > 2 * MAX_FILES * 512:
        raise InputError(f"{path}: {count:,} members, expected at most {MAX_FILES}")
