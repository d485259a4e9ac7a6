"""A checkpoint takes no more memory than its file is large, whatever sizes it claims."""

import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

from pcam_lightning.engine.checkpoints import load_weights
from pcam_lightning.engine.module import PCamClassifier
from pcam_lightning.errors import InputError
from pcam_lightning.models import MLP
from pcam_lightning.weights.structure import read_structure


def saved(value: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


def repacked(content: bytes, compression: int = zipfile.ZIP_STORED, **changes: bytes) -> bytes:
    """The same archive, packed anew, with some records replaced."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(stream, "w") as new:
        for record in old.infolist():
            name = record.filename.rpartition("/")[2].replace(".", "_")
            new.writestr(record.filename, changes.get(name, old.read(record)), compression)
    return stream.getvalue()


class Allocates:
    def __reduce__(self) -> tuple[Any, ...]:
        return bytearray, (5_000_000_000,)


class Stores:
    def __reduce__(self) -> tuple[Any, ...]:
        return torch.FloatStorage, (4,)


def large_index() -> bytes:
    """A pickle that stores an object under a very large number."""
    return pickle.PROTO + b"\x02" + b"}r" + struct.pack("<I", 2**31) + b"."


SMALL = saved({"state_dict": OrderedDict(a=torch.arange(6.0).reshape(2, 3))})
SHARED = torch.zeros(1000)
BOMBS = {
    "a view of one number": saved({"a": torch.zeros(1).expand(1_000_000, 1250)}),
    "many views of one record": saved([SHARED.view(10, 100) for _ in range(100)]),
    "compressed": repacked(saved(torch.zeros(5_000_000)), zipfile.ZIP_DEFLATED),
    "an allocation": saved({"a": Allocates()}),
    "a storage of any size": saved({"a": Stores()}),
    "a large index": repacked(SMALL, data_pkl=large_index()),
    "a record cut short": repacked(SMALL, zipfile.ZIP_STORED, **{"0": b"1234"}),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_size_bomb_is_one_line(tmp_path: Path, bomb: str) -> None:
    path = tmp_path / "x.ckpt"
    path.write_bytes(BOMBS[bomb])
    with pytest.raises(InputError) as caught:
        load_weights(path, PCamClassifier(MLP((4,))))
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def test_structure_is_that_of_torch(tmp_path: Path) -> None:
    tensors = [torch.zeros(2, 3, dtype=dtype) for dtype in (torch.float16, torch.int64, torch.bool)]
    tensors += [torch.zeros(0), torch.tensor(1.0), torch.zeros(4, 4).t(), torch.zeros(9)[3:]]
    value = {"a": tensors, "b": OrderedDict(c=[1, None, "x", (2.5, True)]), 3: {"d": b"x".decode()}}
    path = tmp_path / "x.ckpt"
    torch.save(value, path)
    found = read_structure(path)
    assert found["b"] == value["b"] and found[3] == value[3]
    for one, other in zip(found["a"], tensors, strict=True):
        assert (one.shape, one.dtype, one.device.type) == (other.shape, other.dtype, "meta")
