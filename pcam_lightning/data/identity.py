"""Identity of a data set: digests of its contents, whatever the layout of its files."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np
import xxhash

from pcam_lightning.data.files import SPLITS, SplitFiles, map_chunks, open_dataset, recall
from pcam_lightning.data.ledger import Ledger


def content_digest(path: Path) -> str:
    """Return the XXH3 digest (hex, 32 digits) of an official H5 file's rows as h5py reads them.

    It is the same for every layout, compression, link and virtual dataset; dtype and shape count.
    The file is read once, and again only if it or a file with its rows has changed.

    Raises:
        InputError: the file is damaged.
    """
    with open_dataset(path, path.stem[-1]) as dataset:  # x or y
        return recall(dataset, path, "xxh3_128", lambda: _digest(dataset, path))


def file_digests(root: Path) -> dict[str, str]:
    """Return name and `content_digest` of each of the six H5 files."""
    splits = [SplitFiles(root, split) for split in SPLITS]
    paths = [path for files in splits for path in (files.images, files.labels)]
    return {path.name: content_digest(path) for path in paths}


def fingerprint(digests: Mapping[str, str]) -> str:
    """Return one digest (hex) of all digests of `file_digests`."""
    return hashlib.blake2b("".join(digests.values()).encode(), digest_size=16).hexdigest()


def is_content(path: Path, digest: str) -> bool:
    """Return whether an H5 file has this digest, by the current rule or that of older runs."""
    return digest == content_digest(path) or digest == _bytes_digest(path)


def is_fingerprint(root: Path, digest: str) -> bool:
    """Return whether the six files have this fingerprint, by the current or the older rule."""
    digests = file_digests(root)
    if digest == fingerprint(digests):
        return True
    return digest == fingerprint({name: _bytes_digest(root / name) for name in digests})


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
