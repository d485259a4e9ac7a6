"""Files of a bundle, zipped or not, with safe names and limited sizes."""

import os
import re
import stat
import struct
import zipfile
from pathlib import Path
from typing import IO, BinaryIO

from pcam_lightning.errors import InputError, one_line

IGNORED = ("__pycache__", ".venv")
"""Folders that appear when somebody runs the scripts of an unpacked bundle."""
MAX_FILES = 2000
MAX_TOTAL_BYTES = 32 << 30
"""Size of all files together; wheels for a GPU take about 4 GB."""
MAX_RATIO = 100
"""Unpacked size relative to the archive, beyond 16 MiB; larger ones are zip bombs."""

_PART = r"[A-Za-z0-9_][A-Za-z0-9._+!-]*"
NAME = re.compile(rf"{_PART}(/{_PART}){{0,7}}", re.ASCII)
"""Names of files: letters, digits and ._+!- between slashes, without hidden files."""


class BundleFiles:
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


class ZipFiles(BundleFiles):
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


class FolderFiles(BundleFiles):
    def __init__(self, path: Path) -> None:
        self.path = path
        self.sizes = {}
        self._walk(path, "")
        self._check_amount()

    def open(self, name: str) -> IO[bytes]:
        return open_regular(self.path / name)

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


def open_regular(path: Path) -> BinaryIO:
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
