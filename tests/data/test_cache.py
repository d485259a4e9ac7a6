import errno
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from pcam_files import invert_patch, random_split, write_split

from pcam_lightning.data import cache, shared_folder
from pcam_lightning.data.cache import patch_file
from pcam_lightning.data.clean import to_uint8
from pcam_lightning.data.files import SplitFiles
from pcam_lightning.errors import InputError

LAYOUTS = {
    "contiguous": {},
    "chunked": {"chunks": (7, 96, 96, 3)},
    "gzip": {"chunks": (4, 96, 96, 3), "compression": "gzip", "compression_opts": 1},
    "float32": {"dtype": np.float32},
    "float64 gzip": {"dtype": np.float64, "chunks": (3, 96, 96, 3), "compression": "gzip"},
    "int16": {"dtype": np.int16},
}


@pytest.fixture
def float_files(tmp_path: Path) -> SplitFiles:
    """A training split of 8 patches, `random_split(8)` as float32, which has to be converted."""
    write_split(tmp_path, "train", *random_split(8), dtype=np.float32)
    return SplitFiles(tmp_path, "train")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_bytes_with_and_without_a_cache(
    tmp_path: Path, layout: str
) -> None:
    images, labels = random_split(23)
    write_split(tmp_path, "train", images, labels, **LAYOUTS[layout])
    files = SplitFiles(tmp_path, "train")
    patches = patch_file(files, cache=False).map()
    rows = np.array([5, 22, 5, 0, 1, 2, 17])
    np.testing.assert_array_equal(patches[rows], images[rows])
    np.testing.assert_array_equal(patches[3:9], images[3:9])
    assert patches[np.array([], dtype=int)].shape == (0, 96, 96, 3)
    assert not (tmp_path / ".uint8").exists()
    cached = patch_file(files)
    np.testing.assert_array_equal(cached.map(), images)
    assert (cached.path == files.images) == (layout == "contiguous")
    assert not any(vars(cached.cleaning).values())


def test_damaged_floats_are_clipped_and_counted(tmp_path: Path) -> None:
    images, labels = random_split(12)
    damaged = images.astype(np.float32)
    damaged[1, 0, 0, 0] = np.nan
    damaged[2, 0, :3, 0] = (np.inf, -np.inf, 1e5)
    damaged[3, 0, 0, :2] = (-1.0, 255.6)
    damaged[4, 0, 0, 0] = 12.6
    write_split(tmp_path, "train", damaged, labels)
    expected = images.copy()
    expected[1, 0, 0, 0] = 0
    expected[2, 0, :3, 0] = (255, 0, 255)
    expected[3, 0, 0, :2] = (0, 255)
    expected[4, 0, 0, 0] = 13
    counts = {"nan": 1, "infinite": 2, "below_0": 1, "above_255": 2, "patches": 3}
    for cache_ in (True, False):
        patches = patch_file(SplitFiles(tmp_path, "train"), cache=cache_)
        np.testing.assert_array_equal(patches.map()[:], expected)
        assert vars(patches.cleaning) == counts


def test_integers_out_of_range_do_not_wrap() -> None:
    cleaned, changes = to_uint8(np.array([[-1, 0, 255, 256, 70_000]], dtype=np.int32))
    cleaning = changes.total()
    assert cleaned.tolist() == [[0, 0, 255, 255, 255]]
    assert (cleaning.below_0, cleaning.above_255, cleaning.patches) == (1, 2, 1)


def test_a_copy_is_made_once_and_again_when_the_source_changes(float_files, tmp_path) -> None:
    images, folder = random_split(8)[0], tmp_path / "cache"
    float_files = replace(float_files, cache_dir=folder)
    first = patch_file(float_files)
    made = first.path.stat().st_mtime_ns
    assert first.path.parent == folder
    assert patch_file(float_files).path.stat().st_mtime_ns == made
    invert_patch(float_files.images, 0)
    np.testing.assert_array_equal(patch_file(float_files).map()[:1], 255 - images[:1])


def copies(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix in (".npy", ".tmp"))


def test_copies_of_earlier_contents_are_removed(tmp_path: Path) -> None:
    images, labels = random_split(8)
    for split in ("train", "valid"):
        write_split(tmp_path, split, images, labels, dtype=np.float32)
    files, folder = SplitFiles(tmp_path, "train"), tmp_path / ".uint8"
    other = patch_file(SplitFiles(tmp_path, "valid")).path.name
    patch_file(files)
    stem = files.images.stem
    (folder / f"{stem}_v2_0123456789abcdef.npy").write_bytes(b"of an earlier version")
    (folder / f"{stem}_v2_0123456789abcdef.json").write_text("{}")
    strangers = [f"{stem}_v2.npy", f"my_{stem}_v2_0123456789abcdef.npy", "notes.npy"]
    for name in strangers:
        (folder / name).touch()
    invert_patch(files.images, 0)
    last = patch_file(files).path.name
    assert copies(folder) == sorted([last, other, *strangers])


def test_files_of_the_same_name_have_separate_copies_in_one_folder(tmp_path: Path) -> None:
    paths = []
    for name, seed in (("one", 1), ("two", 2)):
        images, labels = random_split(8, seed)
        write_split(tmp_path / name, "train", images, labels, dtype=np.float32)
        files = SplitFiles(tmp_path / name, "train", cache_dir=tmp_path / "cache")
        os.utime(files.images, ns=(0, 0))  # of the same size and time
        patches = patch_file(files)
        np.testing.assert_array_equal(patches.map(), images)
        paths.append(patches.path)
    invert_patch(files.images, 0)
    new = patch_file(files).path
    assert copies(tmp_path / "cache") == sorted([paths[0].name, new.name])


def _black(path: Path, record: Path) -> None:
    path.write_bytes(path.read_bytes()[:128].ljust(path.stat().st_size, b"\0"))


def _one_bit(path: Path, record: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-1000, os.SEEK_END)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))


def _other_array(dtype: type, rows: int) -> Callable[[Path, Path], None]:
    return lambda path, record: np.save(path, np.zeros((rows, 96, 96, 3), dtype))


def _symbolic_link(path: Path, record: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


def _record(text: str) -> Callable[[Path, Path], object]:
    return lambda path, record: record.write_text(text)


UNSOUND: dict[str, Callable[[Path, Path], object]] = {
    "one bit": _one_bit,
    "dtype": _other_array(np.float32, 8),
    "rows": _other_array(np.uint8, 7),
    "cut off": lambda path, record: os.truncate(path, 1000),
    "no array": lambda path, record: path.write_bytes(b"PK" * 500),
    "no file": lambda path, record: path.unlink(),
    "symbolic link": _symbolic_link,
    "record is no JSON": _record("{"),
    "record is deep": _record("[" * 100_000),
    "record lacks keys": _record("{}"),
    "record has other keys": _record('{"cleaning": {"__class__": 1}, "digest": "0"}'),
    "record has texts": _record('{"cleaning": {"nan": "many"}, "digest": "0"}'),
}


@pytest.mark.parametrize("case", UNSOUND)
def test_an_invalid_copy_is_replaced_and_reported(float_files, caplog, case: str) -> None:
    path = patch_file(float_files).path
    UNSOUND[case](path, path.with_suffix(".json"))
    again = patch_file(float_files)
    np.testing.assert_array_equal(again.map(), random_split(8)[0])
    warnings = [each for each in caplog.records if each.levelname == "WARNING"]
    assert len(warnings) == 1 and path.name in warnings[0].getMessage()
    caplog.clear()
    assert patch_file(float_files) == again and not caplog.records


def test_a_copy_without_its_record_is_replaced(float_files) -> None:
    patches = patch_file(float_files)
    # The state after a kill between the array and its record.
    patches.path.with_suffix(".json").unlink()
    patches.path.write_bytes(b"half")
    np.testing.assert_array_equal(patch_file(float_files).map(), random_split(8)[0])
    json.loads(patches.path.with_suffix(".json").read_text())


def test_a_copy_of_an_untrusted_user_is_not_used(float_files, monkeypatch) -> None:
    forged = patch_file(float_files).path
    monkeypatch.setattr(shared_folder, "is_trusted", lambda path, owner: False)
    monkeypatch.setattr(cache, "is_trusted", lambda path, owner: path.name != forged.name)
    forged.write_bytes(forged.read_bytes()[:128].ljust(forged.stat().st_size, b"\0"))
    np.testing.assert_array_equal(patch_file(float_files).map(), random_split(8)[0])


def test_owners_decide_who_is_trusted(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "file"
    path.touch()
    monkeypatch.setattr(shared_folder.os, "getuid", lambda: 1001)
    for owner, source_owner, trusted in (
        (1001, 1002, True), (0, 1002, True), (1002, 1002, True), (1003, 1002, False)
    ):  # fmt: skip
        facts = SimpleNamespace(st_uid=owner, st_mode=path.stat().st_mode)
        monkeypatch.setattr(Path, "lstat", lambda self, facts=facts: facts)
        assert shared_folder.is_trusted(path, source_owner) is trusted


def test_planted_links_are_not_written_through(float_files, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    path = patch_file(float_files).path
    folder, name = tmp_path / ".uint8", path.stem
    for planted in folder.iterdir():
        planted.unlink()
    for suffix in (".npy", ".json"):
        (folder / f"{name}{suffix}").symlink_to(victim)
    (folder / ".pcam_lightning.json").symlink_to(victim)
    (tmp_path / ".pcam_lightning.json").unlink()
    (tmp_path / ".pcam_lightning.json").symlink_to(victim)
    np.testing.assert_array_equal(patch_file(float_files).map(), random_split(8)[0])
    assert victim.read_text() == "mine" and victim.stat().st_nlink == 1
    assert not path.is_symlink()


def test_without_a_cache_the_values_to_clean_are_counted_once(float_files, monkeypatch) -> None:
    first = patch_file(float_files, cache=False)
    monkeypatch.setattr(cache, "_clean", None)
    assert patch_file(float_files, cache=False) == first


def test_a_data_set_moved_with_its_copies_is_not_converted_again(tmp_path: Path) -> None:
    write_split(tmp_path / "here", "train", *random_split(8), dtype=np.float32)
    before = patch_file(SplitFiles(tmp_path / "here", "train")).path
    (tmp_path / "here").rename(tmp_path / "there")
    after = patch_file(SplitFiles(tmp_path / "there", "train")).path
    assert after == tmp_path / "there" / ".uint8" / before.name
    assert len(list((tmp_path / "there" / ".uint8").glob("*.npy"))) == 1


def start_conversion(root: Path, seconds: float = 0) -> subprocess.Popen[str]:
    """Start a process that maps the training split and prints a digest of its bytes.

    Args:
        root: folder of the split.
        seconds: time that each write to the copy takes.
    """
    program = (
        "import hashlib, logging, os, pathlib, sys, time\n"
        "from pcam_lightning.data.cache import patch_file\n"
        "from pcam_lightning.data.files import SplitFiles\n"
        "logging.basicConfig(level=logging.INFO)\n"
        "pwrite = os.pwrite\n"
        "def slow(*args): time.sleep(float(sys.argv[2])); return pwrite(*args)\n"
        "os.pwrite = slow\n"
        "patches = patch_file(SplitFiles(pathlib.Path(sys.argv[1]), 'train'))\n"
        "print(hashlib.sha256(patches.map().tobytes()).hexdigest())\n"
    )
    arguments = [sys.executable, "-c", program, str(root), str(seconds)]
    return subprocess.Popen(arguments, stdout=-1, stderr=-1, text=True)


def test_processes_that_start_together_convert_once(float_files, tmp_path: Path) -> None:
    processes = [start_conversion(tmp_path, 0.5) for _ in range(4)]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, outputs
    expected = hashlib.sha256(random_split(8)[0].tobytes()).hexdigest()
    assert {out.strip() for out, _ in outputs} == {expected}
    assert sum("converting" in err for _, err in outputs) == 1
    assert len(list((tmp_path / ".uint8").glob("*.npy"))) == 1


def test_the_next_start_repairs_a_conversion_that_was_killed(tmp_path: Path) -> None:
    images, labels = random_split(100)
    write_split(tmp_path, "train", images, labels, dtype=np.float32, chunks=(20, 96, 96, 3))
    process = start_conversion(tmp_path, 0.5)
    deadline = time.monotonic() + 60
    while not any(path.stat().st_size > 10_000 for path in tmp_path.glob(".uint8/.*.npy.*.tmp")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert list(tmp_path.glob(".uint8/.*.npy.*.tmp"))
    assert not list(tmp_path.glob(".uint8/*.npy")) + list(tmp_path.glob(".uint8/*.json"))
    np.testing.assert_array_equal(patch_file(SplitFiles(tmp_path, "train")).map(), images)
    assert not list(tmp_path.glob(".uint8/.*.tmp"))


def _little_space(folder: Path, monkeypatch) -> None:
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: SimpleNamespace(free=100_000))


def _full_disk(folder: Path, monkeypatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(cache.os, "pwrite", full)


def _a_file(folder: Path, monkeypatch) -> None:
    folder.touch()


@pytest.mark.parametrize("fault", [_little_space, _full_disk, _a_file])
def test_a_copy_that_cannot_be_written_is_one_line(
    float_files, tmp_path: Path, monkeypatch, fault
) -> None:
    folder = tmp_path / "cache"
    fault(folder, monkeypatch)
    with pytest.raises(InputError, match=r"data\.cache_dir") as caught:
        patch_file(replace(float_files, cache_dir=folder))
    assert str(folder) in str(caught.value) and len(str(caught.value).splitlines()) == 1
    assert not list(folder.glob("*.npy")) + list(folder.glob(".*.npy.*.tmp"))


def private_bytes(status: str) -> int:
    return sum(
        1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith("Private_")
    )


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="Linux counts pages")
def test_processes_share_the_pages_of_the_patches(tmp_path: Path) -> None:
    images, labels = random_split(1000)  # 28 MB
    write_split(tmp_path, "train", images, labels)
    program = (
        "import pathlib, sys\n"
        "from pcam_lightning.data.cache import patch_file\n"
        "from pcam_lightning.data.files import SplitFiles\n"
        "patches = patch_file(SplitFiles(pathlib.Path(sys.argv[1]), 'train')).map()\n"
        "rollup = pathlib.Path('/proc/self/smaps_rollup')\n"
        "print(rollup.read_text() + 'end', flush=True)\n"
        "patches[:].max()\n"
        "print('read', flush=True)\n"
        "sys.stdin.readline()\n"
        "print(rollup.read_text() + 'end', flush=True)\n"
        "sys.stdin.readline()\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path)], stdin=-1, stdout=-1, text=True
        )
        for _ in range(4)
    ]

    def read_until(process: subprocess.Popen[str], last: str) -> str:
        assert process.stdout is not None
        return "".join(iter(process.stdout.readline, f"{last}\n"))

    try:
        before = [private_bytes(read_until(process, "end")) for process in processes]
        for process in processes:
            read_until(process, "read")
        after = []
        for process in processes:  # while all have every page mapped
            assert process.stdin is not None
            print(file=process.stdin, flush=True)
            after.append(private_bytes(read_until(process, "end")))
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    grown = [late - early for early, late in zip(before, after, strict=True)]
    assert max(grown) < images.nbytes / 10, grown
