"""Identity of a data set: digests of its contents, whatever the layout of its files."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np
import xxhash

from pcam_lightning.data.files import SPLITS, SplitFiles, map_chunks, open_dataset, recall
from pcam_lightning.data.ledger import Ledger


def content_digest(files: SplitFiles, part: str) -> str:
    """Return the XXH3 digest (hex, 32 digits) of the rows of a split's patches or labels.

    It is the same for every layout, compression, file name, link and virtual dataset; dtype and
    shape count. The file is read once, and again only if it or a file with its rows has changed.

    Args:
        files: the files of the split.
        part: "x", patches, or "y", labels.

    Raises:
        InputError: the file is damaged.
    """
    path = files.path(part)
    with open_dataset(files, part) as dataset:
        return recall(dataset, path, "xxh3_128", lambda: _digest(dataset, path))


def file_digests(splits: Mapping[str, SplitFiles]) -> dict[str, str]:
    """Return official name and `content_digest` of each of the six H5 files of `split_files`."""
    return {files.names(part)[0]: content_digest(files, part) for files, part in _six(splits)}


def fingerprint(digests: Mapping[str, str]) -> str:
    """Return one digest (hex) of all digests of `file_digests`."""
    return hashlib.blake2b("".join(digests.values()).encode(), digest_size=16).hexdigest()


def is_content(files: SplitFiles, part: str, digest: str) -> bool:
    """Return whether an H5 file has this digest, by the current rule or that of older runs."""
    return digest == content_digest(files, part) or digest == _bytes_digest(files.path(part))


def is_fingerprint(splits: Mapping[str, SplitFiles], digest: str) -> bool:
    """Return whether the six files have this fingerprint, by the current or the older rule."""
    digests = file_digests(splits)
    if digest == fingerprint(digests):
        return True
    older = [_bytes_digest(files.path(part)) for files, part in _six(splits)]
    return digest == fingerprint(dict(zip(digests, older, strict=True)))


def _six(splits: Mapping[str, SplitFiles]) -> list[tuple[SplitFiles, str]]:
    return [(splits[split], part) for split in SPLITS for part in ("x", "y")]


def _digest(dataset: h5py.Dataset, path: Path) -> str:
    digest = xxhash.xxh3_128(f"{dataset.dtype.newbyteorder('<').str} {dataset.shape} ".encode())
    for rows in map_chunks(dataset, path, lambda _, rows: rows):
        digest.update(np.ascontiguousarray(rows, rows.dtype.newbyteorder("<")).data)
    return digest.hexdigest()


def _bytes_digest(path: Path) -> str:
    """Return BLAKE2b (hex, 32 digits) of a file's bytes, which older runs recorded."""

    def read() -> str:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()

    return Ledger(path.parent).recall([path.resolve()], "blake2b", read)
