"""The official PatchCamelyon files from Zenodo: fetched, resumed, checked and unpacked.

https://zenodo.org/records/2546921 (Veeling et al. 2018, CC0). Its names of the validation and test
files are those that everybody's loaders use. The table of checksums on the project's own page has
them the other way round (github.com/basveeling/pcam, issue 4).
"""

import hashlib
import logging
import os
import shutil
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
import urllib3
from filelock import FileLock
from tqdm import tqdm

from pcam_lightning.data.files import PATCH_BYTES, SPLITS
from pcam_lightning.errors import InputError

URL = "https://zenodo.org/records/2546921/files"
ATTEMPTS = 4  # at a file without a single new byte
TIMEOUT = 30  # seconds without an answer
BLOCK = 2**20

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OfficialFile:
    """A file of the release, as it is called here, and what is known of it."""

    name: str
    size: int
    """In bytes, at least; exact but for the few thousand that HDF5 adds."""
    md5: str
    packed_md5: str | None = None
    """Of NAME.gz on the server; None where it is not packed there."""

    @property
    def remote_name(self) -> str:
        return f"{self.name}.gz" if self.packed_md5 else self.name

    @property
    def remote_md5(self) -> str:
        return self.packed_md5 or self.md5


_ROWS = {"train": 262_144, "valid": 32_768, "test": 32_768}
# Of the packed files as published; of the unpacked ones as two projects that use them found them
# independently of each other.
_DIGESTS = {
    "train_x.h5": ("01844da899645b4d6f84946d417ba453", "1571f514728f59376b705fc836ff4b63"),
    "train_y.h5": ("0781386bf6c2fb62d58ff18891466aca", "35c2d7259d906cfc8143347bb8e05be7"),
    "train_meta.csv": ("5a3dd671e465cfd74b5b822125e65b0a", None),
    "valid_x.h5": ("81cf9680f1724c40673f10dc88e909b1", "d5b63470df7cfa627aeec8b9dc0c066e"),
    "valid_y.h5": ("94d8aacc249253159ce2a2e78a86e658", "2b85f58b927af9964a4c15b8f7e8f179"),
    "valid_meta.csv": ("67589e00a4a37ec317f2d1932c7502ca", None),
    "test_x.h5": ("2614b2e6717d6356be141d9d6dbfcb7e", "d8c2d60d490dbd479f8199bdfa0cf6ec"),
    "test_y.h5": ("11ed647efe9fe457a4eb45df1dba19ba", "60a7035772fbdb7f34eb86d4420cf66a"),
    "test_meta.csv": ("3455fd69135b66734e1008f3af684566", None),
}


def official_files(splits: Iterable[str] = SPLITS) -> list[OfficialFile]:
    """Three files for each split; small ones first, so that what is wrong shows soon."""
    files = []
    for split in splits:
        for ending, bytes_each in (("x.h5", PATCH_BYTES), ("y.h5", 1), ("meta.csv", 1)):
            digests = _DIGESTS[f"{split}_{ending}"]
            name = f"camelyonpatch_level_2_split_{split}_{ending}"
            files.append(OfficialFile(name, _ROWS[split] * bytes_each, *digests))
    return sorted(files, key=lambda file: file.size)


def check_files(root: Path, files: Iterable[OfficialFile]) -> dict[str, str]:
    """State of each file by name: "official", "missing", or "differs" from the official bytes."""
    return {file.name: _state(root / file.name, file) for file in files}


def download(root: Path, files: Iterable[OfficialFile], url: str | None = None) -> dict[str, str]:
    """Fetch the files that are missing in `root`; say of each "official" or "downloaded".

    A file appears under its name only when it is whole and checked. What was fetched of it before
    the connection, the process or the machine broke off is kept in `root/.download` and not
    fetched again. Processes that start together download once.

    Raises:
        InputError: a file of that name is there and is another one (it is not touched), the
            server cannot be reached or sends other bytes, or the disk has no room.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{root}: cannot be made ({error.strerror})") from None
    states = {}
    with FileLock(root / ".download.lock"):
        for file in files:
            target = root / file.name
            states[file.name] = _state(target, file)
            if states[file.name] == "differs":
                raise InputError(
                    f"{target}: its MD5 is not {file.md5} of the official file; it is kept, "
                    "expected it elsewhere, or another root to download to"
                )
            if states[file.name] == "missing":
                _fetch(file, target, f"{(url or URL).rstrip('/')}/{file.remote_name}")
                states[file.name] = "downloaded"
        shutil.rmtree(root / ".download", ignore_errors=True)
    return states


def _state(path: Path, file: OfficialFile) -> str:
    if not path.is_file():
        return "missing"
    with path.open("rb") as stream:
        name = f"checking {path.name}"
        digest = hashlib.md5(usedforsecurity=False)
        with tqdm(total=path.stat().st_size, desc=name, **_BAR) as bar:
            while block := stream.read(BLOCK):
                digest.update(block)
                bar.update(len(block))
    return "official" if digest.hexdigest() == file.md5 else "differs"


_BAR: dict[str, Any] = {"unit": "B", "unit_scale": True, "unit_divisor": 1024, "disable": None}


def _fetch(file: OfficialFile, target: Path, url: str) -> None:
    folder = target.parent / ".download"
    folder.mkdir(exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < 2 * file.size:  # packed and unpacked, for as long as it takes
        raise InputError(
            f"{folder}: {file.name} takes up to {2 * file.size / 1e9:.2f} GB while it is unpacked "
            f"and {free / 1e9:.2f} GB are free; expected room there, or another root"
        )
    log.info("downloading %s", url)
    draft = folder / file.name
    part = folder / f"{file.remote_name}.part"
    try:
        digest = _transfer(url, part, draft if file.packed_md5 else None)
        if digest != file.remote_md5:
            raise ValueError(f"expected md5:{file.remote_md5} but got md5:{digest}")
        os.replace(draft if file.packed_md5 else part, target)
        part.unlink(missing_ok=True)
    except requests.RequestException as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"{url}: {reason}; what has arrived is kept, run the command again to go on"
        ) from None
    except (ValueError, zlib.error) as error:
        shutil.rmtree(folder)
        reason = " ".join(str(error).split())[:400]
        raise InputError(f"{url}: not the official file ({reason}); it was deleted") from None
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror or error})") from None


def _transfer(url: str, received: Path, unpacked: Path | None) -> str:
    """Complete a file that an earlier start may have received in part; return its MD5 (hex).

    What arrives is also unpacked to `unpacked`, if that is given.

    Raises:
        ValueError: the packed file ends too early.
        requests.RequestException, zlib.error, OSError: as they say.
    """
    digest = hashlib.md5(usedforsecurity=False)
    unzip = zlib.decompressobj(wbits=31)
    with ExitStack() as files:
        part = files.enter_context(received.open("a+b"))
        target = files.enter_context(unpacked.open("wb")) if unpacked else None

        def take(block: bytes) -> None:
            digest.update(block)
            if target is not None:
                target.write(unzip.decompress(block))

        part.seek(0)
        while block := part.read(BLOCK):  # of an earlier start
            take(block)
        with tqdm(desc=received.stem, initial=part.tell(), **_BAR) as bar:
            for block in _blocks(url, part.tell(), bar):
                part.write(block)
                take(block)
        for file in (part, target):
            if file is not None:
                file.flush()
                os.fsync(file.fileno())
    if target is not None and not unzip.eof:
        raise ValueError("the packed file ends too early")
    return digest.hexdigest()


def _blocks(url: str, received: int, bar: tqdm) -> Iterator[bytes]:
    """The bytes of `url` behind the first `received`, through as many connections as it takes."""
    failures = 0
    while True:
        before = received
        try:
            for block in _connection(url, received, bar):
                received += len(block)
                bar.update(len(block))
                yield block
            return
        except requests.HTTPError:  # the server's answer, which asking again will not change
            raise
        except requests.RequestException as error:
            failures = 0 if received > before else failures + 1
            if failures == ATTEMPTS:
                raise
            log.warning("%s broke off after %d bytes (%s); going on", url, received, error)
            time.sleep(min(2**failures, 32) - 1)


def _connection(url: str, received: int, bar: tqdm) -> Iterator[bytes]:
    """The same, through one connection, by a server that may or may not know byte ranges."""
    headers = {"Accept-Encoding": "identity"}
    if received:
        headers["Range"] = f"bytes={received}-"
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        if received and response.status_code == requests.codes.range_not_satisfiable:
            return  # it had arrived whole
        response.raise_for_status()
        ranged = response.status_code == requests.codes.partial_content
        position = received if ranged else 0
        length = response.headers.get("Content-Length")
        bar.total = position + int(length) if length else None
        try:
            # Not iter_content, which loses the part of a block that came before a break.
            while block := response.raw.read1(BLOCK):
                new = block[max(0, received - position) :]
                position += len(block)
                if new:
                    yield new
        except urllib3.exceptions.HTTPError as error:
            raise requests.ConnectionError(error) from None
        if bar.total and position < bar.total:
            raise requests.ConnectionError("the connection closed early")
