"""Download of the official PatchCamelyon files from Zenodo: resume, check and unpack.

https://zenodo.org/records/2546921 (Veeling et al. 2018, CC0). Common loaders use its names of the
validation and test files. The table of checksums on the project's own page swaps the two
(github.com/basveeling/pcam, issue 4).
"""

import gzip
import hashlib
import logging
import os
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import requests
import urllib3
from filelock import FileLock
from tqdm import tqdm

from pcam_lightning.data.files import PATCH_BYTES, SPLITS
from pcam_lightning.errors import InputError, one_line

URL = "https://zenodo.org/records/2546921/files"
ATTEMPTS = 4
"""Connections in a row without a new byte, after which a download fails."""
TIMEOUT = 30
"""Seconds to wait for an answer."""
BLOCK = 2**16
"""Bytes to read at once; a broken connection loses at most these."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OfficialFile:
    """A file of the release: its local name, size and digests."""

    name: str
    size: int
    """Minimum number of bytes; HDF5 adds a few thousand."""
    md5: str
    packed_md5: str | None = None
    """Digest of NAME.gz on the server; None if the server has the file unpacked."""

    @property
    def remote_name(self) -> str:
        return f"{self.name}.gz" if self.packed_md5 else self.name

    @property
    def remote_md5(self) -> str:
        return self.packed_md5 or self.md5


_ROWS = {"train": 262_144, "valid": 32_768, "test": 32_768}
# The digests of packed files are published. Two projects that use the unpacked files found the
# same digests of them independently.
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
    """Return three files for each split; small ones first, so that errors show early."""
    files = []
    for split in splits:
        for ending, bytes_each in (("x.h5", PATCH_BYTES), ("y.h5", 1), ("meta.csv", 1)):
            digests = _DIGESTS[f"{split}_{ending}"]
            name = f"camelyonpatch_level_2_split_{split}_{ending}"
            files.append(OfficialFile(name, _ROWS[split] * bytes_each, *digests))
    return sorted(files, key=lambda file: file.size)


def check_files(root: Path, files: Iterable[OfficialFile]) -> dict[str, str]:
    """Return the state of each file by name: "official", "missing" or "differs"."""
    return {file.name: _state(root / file.name, file) for file in files}


def download(root: Path, files: Iterable[OfficialFile], url: str | None = None) -> dict[str, str]:
    """Download the files that are missing in `root`; return "official" or "downloaded" by name.

    A file appears under its name only when it is complete and checked. After a broken connection,
    a kill or a crash, the next call continues with the bytes in `root/.download`. Processes that
    start together download once.

    Raises:
        InputError: an existing file differs from the official one (it is kept), the server cannot
            be reached or sends other bytes, or the disk has too little space.
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
                    f"{target}: expected the MD5 {file.md5} of the official file; move this file "
                    "away or choose another root"
                )
            if states[file.name] == "missing":
                _fetch(file, target, f"{(url or URL).rstrip('/')}/{file.remote_name}")
                states[file.name] = "downloaded"
        shutil.rmtree(root / ".download", ignore_errors=True)
    return states


def _state(path: Path, file: OfficialFile) -> str:
    if not path.is_file():
        return "missing"
    return "official" if _md5(path) == file.md5 else "differs"


_BAR: dict[str, Any] = {"unit": "B", "unit_scale": True, "unit_divisor": 1024, "disable": None}


def _md5(path: Path) -> str:
    digest, name = hashlib.md5(usedforsecurity=False), f"checking {path.name}"
    with (
        path.open("rb") as file,
        tqdm.wrapattr(file, "read", path.stat().st_size, desc=name, **_BAR) as stream,
    ):
        while block := stream.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _fetch(file: OfficialFile, target: Path, url: str) -> None:
    folder = target.parent / ".download"
    folder.mkdir(exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < 2 * file.size:  # the packed and the unpacked file exist together
        raise InputError(
            f"{folder}: {file.name} needs up to {2 * file.size / 1e9:.2f} GB while it is unpacked "
            f"and {free / 1e9:.2f} GB are free; expected enough space, or another root"
        )
    log.info("downloading %s", url)
    part = folder / f"{file.remote_name}.part"
    draft = folder / file.name if file.packed_md5 else part
    try:
        _receive(url, part)
        if (digest := _md5(part)) != file.remote_md5:
            shutil.rmtree(folder)
            raise InputError(
                f"{url}: not the official file (expected md5:{file.remote_md5} but got "
                f"md5:{digest}); it was deleted"
            )
        if file.packed_md5:
            with gzip.open(part) as packed, draft.open("wb") as unpacked:
                shutil.copyfileobj(packed, unpacked, 2**20)
                unpacked.flush()
                os.fsync(unpacked.fileno())
        os.replace(draft, target)
        part.unlink(missing_ok=True)
    except requests.RequestException as error:
        raise InputError(
            f"{url}: {one_line(error)}; the received bytes are kept, run the command again to "
            "continue"
        ) from None
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror or error})") from None


def _receive(url: str, part: Path) -> None:
    """Append the bytes that `part` lacks of `url`, over as many connections as needed."""
    failures = 0
    with part.open("ab") as file, tqdm(desc=part.stem, **_BAR) as bar:
        most = file.tell()
        while True:
            try:
                _append(url, file, bar)
                break
            except requests.HTTPError:  # the server's answer; another request gets the same
                raise
            except requests.RequestException as error:
                failures = 0 if file.tell() > most else failures + 1
                most = max(most, file.tell())
                if failures == ATTEMPTS:
                    raise
                log.warning("%s: broken off after %d bytes (%s); continuing", url, most, error)
                time.sleep(min(2**failures, 32) - 1)
        file.flush()
        os.fsync(file.fileno())


def _append(url: str, file: BinaryIO, bar: tqdm) -> None:
    """Append the rest of `url` to a file, over one connection."""
    headers = {"Accept-Encoding": "identity"}
    if received := file.tell():
        headers["Range"] = f"bytes={received}-"
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        if received and response.status_code == requests.codes.range_not_satisfiable:
            return  # the file is complete
        response.raise_for_status()
        if response.status_code != requests.codes.partial_content:
            received = file.seek(0)  # the server ignores ranges and sends the whole file
            file.truncate()
        length = response.headers.get("Content-Length")
        bar.total = received + int(length) if length else None
        bar.update(received - bar.n)
        try:
            # Not iter_content, which would decode a file that is marked as gzip.
            for block in response.raw.stream(BLOCK, decode_content=False):
                file.write(block)
                bar.update(len(block))
        except urllib3.exceptions.HTTPError as error:
            raise requests.ConnectionError(error) from None
