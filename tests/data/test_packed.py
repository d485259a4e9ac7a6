"""H5 files that exist as gzip only are unpacked once, completely or not at all."""

import gzip
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from pcam_files import SPLITS
from pcam_layouts import packed as pack

from pcam_lightning.data import layout, packed
from pcam_lightning.data.files import SplitFiles, check_split, split_files
from pcam_lightning.data.identity import file_digests
from pcam_lightning.errors import InputError


@pytest.fixture
def packed_root(pcam_root: Path) -> Path:
    pack(pcam_root)
    return pcam_root


def test_packed_files_are_unpacked_once_beside_them(pcam_root: Path, caplog) -> None:
    before = file_digests(split_files(pcam_root))
    contents = {path.name: path.read_bytes() for path in pcam_root.glob("*.h5")}
    pack(pcam_root)
    assert layout.missing_files(pcam_root) == []
    with caplog.at_level("INFO"):
        assert file_digests(split_files(pcam_root)) == before
        assert file_digests(split_files(pcam_root)) == before
    assert sum("unpacking" in each.getMessage() for each in caplog.records) == 6
    assert {path.name: path.read_bytes() for path in pcam_root.glob("*.h5")} == contents
    assert len(list(pcam_root.glob("*.h5.gz"))) == 6


def _read_only(monkeypatch, folder: Path) -> None:
    access = os.access
    monkeypatch.setattr(
        packed.os, "access", lambda path, mode: Path(path) != folder and access(path, mode)
    )


def test_a_read_only_folder_needs_cache_dir(packed_root: Path, tmp_path, monkeypatch) -> None:
    _read_only(monkeypatch, packed_root)
    with pytest.raises(InputError, match=r"data\.cache_dir"):
        check_split(SplitFiles(packed_root, "train"))
    files = SplitFiles(packed_root, "train", cache_dir=tmp_path / "cache")
    assert check_split(files) == 48 and files.images.parent == tmp_path / "cache"
    assert not list(packed_root.glob("*.h5"))
    first = files.images
    os.utime(f"{packed_root / files.names('x')[0]}.gz", ns=(0, 0))  # another version
    assert files.images != first and not first.exists()
    assert check_split(files) == 48


def test_a_forged_copy_in_a_shared_folder_is_rejected(
    packed_root: Path, tmp_path, monkeypatch
) -> None:
    _read_only(monkeypatch, packed_root)
    files = SplitFiles(packed_root, "train", cache_dir=tmp_path / "cache")
    copy = files.images
    copy.unlink()
    copy.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=copy.name):
        check_split(files)


def _no_gzip(path: Path, _) -> None:
    path.write_bytes(b"<html>Not Found</html>")


def _empty(path: Path, _) -> None:
    path.write_bytes(b"")


def _no_hdf5(path: Path, _) -> None:
    path.write_bytes(gzip.compress(b"<html>Not Found</html>"))


def _truncated(path: Path, _) -> None:
    path.write_bytes(path.read_bytes()[:-2000])


def _damaged(path: Path, _) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 100] = bytes(100)
    path.write_bytes(content)


def _bomb(path: Path, monkeypatch) -> None:
    for part in ("x", "y"):
        monkeypatch.setitem(layout.MAX_BYTES, part, 10**6)
    path.write_bytes(gzip.compress(packed.SIGNATURE + bytes(10**7)))


def _bomb_that_lies(path: Path, monkeypatch) -> None:
    _bomb(path, monkeypatch)
    # The size at the end is that of the last member.
    path.write_bytes(path.read_bytes() + gzip.compress(bytes(50_000)))


def _little_space(path: Path, monkeypatch) -> None:
    monkeypatch.setattr(packed.shutil, "disk_usage", lambda _: SimpleNamespace(free=10**6))


def _bomb_that_fills_the_disk(path: Path, monkeypatch) -> None:
    _little_space(path, monkeypatch)
    monkeypatch.setattr(packed, "RESERVE", 0)
    path.write_bytes(gzip.compress(packed.SIGNATURE + bytes(10**7)) + gzip.compress(bytes(50_000)))


# Each is one line that names the packed file, and leaves nothing behind.
FAULTS = [
    _no_gzip,
    _empty,
    _no_hdf5,
    _truncated,
    _damaged,
    _bomb,
    _bomb_that_lies,
    _little_space,
    _bomb_that_fills_the_disk,
]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("part", ["x", "y"])
def test_a_file_that_cannot_be_unpacked_is_one_line(
    packed_root: Path, monkeypatch, fault, part: str
) -> None:
    files = SplitFiles(packed_root, "train")
    path = packed_root / f"{files.names(part)[0]}.gz"
    fault(path, monkeypatch)
    with pytest.raises(InputError) as caught:
        files.path(part)
    message = str(caught.value)
    assert path.name in message and len(message.splitlines()) == 1
    assert ("unpacks to more than" in message) == (fault in (_bomb, _bomb_that_lies))
    left = [each.name for each in packed_root.iterdir() if each.name.startswith(path.name[:-3])]
    assert left == [path.name]


def test_processes_that_start_together_unpack_once(packed_root: Path) -> None:
    program = (
        "import logging, sys; from pathlib import Path; logging.basicConfig(level='INFO');"
        "from pcam_lightning.data.files import SplitFiles, check_split;"
        "print(check_split(SplitFiles(Path(sys.argv[1]), 'train')))"
    )
    command = [sys.executable, "-c", program, str(packed_root)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, **pipes) for _ in range(3)]  # type: ignore[call-overload]
    results = [process.communicate(timeout=60) for process in processes]
    assert [out for out, _ in results] == ["48\n"] * 3
    assert sum(err.count("unpacking") for _, err in results) == 2  # patches and labels


@pytest.mark.parametrize("size", [0, 1, 1000, 200_000])
def test_the_expected_size_is_exact_below_4_gib(tmp_path: Path, size: int) -> None:
    noise = np.random.default_rng(0).bytes(size)  # packing makes it larger
    (tmp_path / "x.gz").write_bytes(gzip.compress(noise))
    assert packed._expected_bytes(tmp_path / "x.gz") == size


def test_a_draft_of_a_killed_process_is_removed(packed_root: Path) -> None:
    files = SplitFiles(packed_root, SPLITS[0])
    draft = packed_root / f".{files.names('x')[0]}.0123.tmp"
    draft.touch()
    assert check_split(files) == 48 and not draft.exists()
