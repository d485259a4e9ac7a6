import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pcam_lightning.data import ledger
from pcam_lightning.data.ledger import NAME, Ledger
from pcam_lightning.errors import InputError


@pytest.fixture
def data(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "data" / "x.h5"
    path.parent.mkdir()
    path.write_bytes(b"first")
    return path


class Reader:
    """A fact about a file, its text, with a count of the reads."""

    def __init__(self, path: Path) -> None:
        self.path, self.reads = path, 0

    def __call__(self) -> str:
        self.reads += 1
        return self.path.read_text()

    def recall(self) -> str:
        return Ledger(self.path.parent).recall([self.path], "contents", self)


def test_a_file_is_read_once_until_it_changes(data: Path) -> None:
    reader = Reader(data)
    assert [reader.recall() for _ in range(3)] == ["first"] * 3
    assert reader.reads == 1
    data.write_bytes(b"third")
    assert [reader.recall() for _ in range(3)] == ["third"] * 3
    assert reader.reads == 2


def _keep_times(path: Path) -> None:
    before = path.stat()
    path.write_bytes(b"other")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _replace(path: Path) -> None:
    before = path.stat()
    path.with_name("new").write_bytes(b"other")
    os.utime(path.with_name("new"), ns=(before.st_atime_ns, before.st_mtime_ns))
    os.replace(path.with_name("new"), path)


@pytest.mark.parametrize("change", [_keep_times, _replace])
def test_a_change_of_the_same_size_and_time_is_detected(
    data: Path, change: Callable[[Path], None]
) -> None:
    assert Reader(data).recall() == "first"
    change(data)
    assert Reader(data).recall() == "other"


def test_a_write_right_after_reading_is_detected(data: Path) -> None:
    for number in range(5):
        text = f"{number:05d}"
        data.write_text(text)
        assert Reader(data).recall() == text


def test_a_change_while_a_file_is_read_is_an_error(data: Path) -> None:
    def change() -> str:
        data.write_bytes(b"longer than before")
        return "?"

    with pytest.raises(InputError, match=r"x\.h5"):
        Ledger(data.parent).recall([data], "contents", change)


def test_a_folder_that_moves_keeps_its_facts(data: Path) -> None:
    Reader(data).recall()
    there = Reader(data.parent.rename(data.parent.with_name("there")) / "x.h5")
    assert there.recall() == "first" and there.reads == 0


def test_processes_that_start_together_read_once(data: Path) -> None:
    reader = Reader(data)
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: reader.recall(), range(8))) == {"first"}
    assert reader.reads == 1


def test_facts_about_files_of_another_user_go_to_the_own_cache(
    data: Path, tmp_path: Path, monkeypatch
) -> None:
    other = data.stat().st_uid + 1
    monkeypatch.setattr(ledger.os, "getuid", lambda: other)  # the data belongs to another user
    Reader(data).recall()
    assert not (data.parent / NAME).exists()
    assert list((tmp_path / "cache" / "pcam_lightning").glob("*.json"))


@pytest.mark.parametrize("text", ["{", "[]", "null", '{"x.h5: contents": 3}', "[" * 10**5, "\xff"])
def test_a_damaged_ledger_is_ignored(data: Path, text: str) -> None:
    (data.parent / NAME).write_text(text, encoding="latin-1")
    reader = Reader(data)
    assert [reader.recall() for _ in range(2)] == ["first"] * 2
    assert reader.reads == 1


def test_a_value_changed_by_hand_is_ignored(data: Path) -> None:
    Reader(data).recall()
    place = data.parent / NAME
    known = json.loads(place.read_text())
    (entry,) = known.values()
    entry["value"] = ["wrong"]
    place.write_text(json.dumps(known))
    assert Reader(data).recall() == "first"


def test_facts_of_an_untrusted_user_are_ignored(data: Path, monkeypatch) -> None:
    Reader(data).recall()
    monkeypatch.setattr("pcam_lightning.data.shared_folder.is_trusted", lambda *_: False)
    reader = Reader(data)
    reader.recall()
    assert reader.reads == 1


def test_a_copy_of_a_data_set_is_read_again(data: Path) -> None:
    Reader(data).recall()
    shutil.copytree(data.parent, data.parent.with_name("copy"))
    reader = Reader(data.parent.with_name("copy") / "x.h5")
    assert reader.recall() == "first" and reader.reads == 1


def test_facts_that_cannot_be_stored_are_a_warning(data: Path, monkeypatch, caplog) -> None:
    def read_only(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(ledger, "write_json", read_only)
    assert Reader(data).recall() == "first"
    (warning,) = caplog.records
    assert str(data.parent) in warning.getMessage()
