"""Check of a checkpoint file before torch loads it.

torch.load(weights_only=True) runs no code from a file, but it trusts the sizes in it: a few bytes
can unpack, view or allocate many gigabytes. This module compares the sizes with the file's records
and reads the pickle with substitutes that allocate nothing. The names that it accepts are private
(`torch._utils`), but part of torch's file format.
"""

import io
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pcam_lightning.errors import InputError

PICKLE_BYTES = 32 << 20
"""Largest size of a checkpoint's structure, without its numbers; densenet121 has 200 kB."""

STORAGES = {
    "BFloat16Storage": torch.bfloat16,
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "ShortStorage": torch.int16,
}


def read_structure(path: Path) -> Any:
    """Return the content of a torch.save file, with its tensors on the device "meta".

    Raises:
        InputError: records are compressed, overlap or do not match their tensors, or the file holds
            more than tensors and plain containers.
        Exception: the file is no zip file or truncated, or its pickle is damaged.
    """
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        records = {record.filename: record for record in archive.infolist()}
        stored = all(
            record.compress_type == zipfile.ZIP_STORED and record.file_size == record.compress_size
            for record in records.values()
        )
        total = sum(record.file_size for record in archive.infolist())
        if not stored or total > size or len(records) != len(archive.infolist()):
            raise InputError(
                f"{path}: its records unpack to {total:,} bytes of a file of {size:,}; expected "
                "records that are stored as they are, as torch.save writes them"
            )
        if damaged := archive.testzip():  # torch (2.14) ignores the checksums
            raise InputError(f"{path}: damaged, the checksum of {damaged} in it does not match")
        prefix = next(iter(records)).partition("/")[0]
        if records[f"{prefix}/data.pkl"].file_size > PICKLE_BYTES:
            raise InputError(f"{path}: data.pkl is larger than {PICKLE_BYTES:,} bytes")
        content = archive.read(f"{prefix}/data.pkl")
    for code, argument, _ in pickletools.genops(content):
        # Python allocates a memo as large as the index.
        if code.name.endswith("PUT") and int(argument or 0) > len(content):
            raise InputError(f"{path}: damaged, an index of {argument} in data.pkl")
    sizes = {name.removeprefix(f"{prefix}/data/"): each.file_size for name, each in records.items()}
    reader = _Reader(content, path, sizes)
    structure = reader.load()
    if reader.bytes > 2 * size:
        raise InputError(f"{path}: its tensors take {reader.bytes:,} bytes, the file {size:,}")
    return structure


@dataclass(frozen=True)
class _Storage:
    dtype: torch.dtype
    numbers: int = 0


class _Reader(pickle.Unpickler):
    """Unpickler of plain containers and tensors without values.

    Args:
        content: data.pkl.
        path: path of the checkpoint, for messages.
        sizes: bytes of each record of numbers, by name.
    """

    def __init__(self, content: bytes, path: Path, sizes: dict[str, int]) -> None:
        super().__init__(io.BytesIO(content))
        self.path, self.sizes, self.bytes = path, sizes, 0
        """`bytes` is the total size of all tensors if each has its own memory."""

    def find_class(self, module: str, name: str, /) -> Any:
        if module == "torch" and name in STORAGES:
            return _Storage(STORAGES[name])
        known: dict[tuple[str, str], Callable] = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): self._tensor,
            ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
        }
        if (module, name) in known:
            return known[module, name]
        raise InputError(
            f"{self.path}: expected tensors and plain containers, found {module}.{name}; not "
            "loaded, since that could run any code"
        )

    def persistent_load(self, pid: Any, /) -> _Storage:
        _, kind, key, _, numbers = pid
        if self.sizes.get(key, 0) != numbers * kind.dtype.itemsize:
            raise InputError(f"{self.path}: damaged, record {key} does not hold {numbers} numbers")
        return _Storage(kind.dtype, numbers)

    def _tensor(
        self,
        storage: _Storage,
        offset: int,
        size: tuple[int, ...],
        stride: tuple[int, ...],
        *_: Any,
    ) -> torch.Tensor:
        numbers = 1
        for length in size:
            numbers *= length
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        small = min((offset, *size, *stride)) < 0
        if small or (numbers and last >= storage.numbers) or numbers > storage.numbers:
            raise InputError(
                f"{self.path}: a tensor of shape {list(size)} in a record of {storage.numbers} "
                "numbers, expected a record that holds them all"
            )
        self.bytes += numbers * storage.dtype.itemsize
        return torch.empty(size, dtype=storage.dtype, device="meta")
