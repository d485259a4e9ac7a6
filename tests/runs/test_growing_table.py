"""A growing table reads like one written at once, even after a kill at any moment."""

import math
from pathlib import Path

import pyarrow as pa
import pytest

from pcam_lightning.runs import growing_table
from pcam_lightning.runs.growing_table import GrowingTable, read_table


class Killed(Exception):
    pass


def rows(first: int, last: int) -> pa.Table:
    steps = list(range(first, last))
    lists = pa.array([[step] if step % 7 == 0 else None for step in steps], pa.list_(pa.int64()))
    return pa.table({"step": steps, "rows": lists})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gradients.parquet"


def test_every_append_is_on_disk_and_joined_it_is_one_file(path: Path) -> None:
    table = GrowingTable(path)
    assert len(table.open(0)) == 0
    for step in range(0, 90, 3):
        table.append(rows(step, step + 3))
        assert read_table(path).equals(rows(0, step + 3))
    table.join()
    assert read_table(path).equals(rows(0, 90))
    assert list(path.parent.iterdir()) == [path]


def test_the_number_of_writes_is_logarithmic(path: Path, monkeypatch) -> None:
    written = []
    write = growing_table.pq.write_table
    monkeypatch.setattr(
        growing_table.pq,
        "write_table",
        lambda table, *where: (written.append(len(table)), write(table, *where)),
    )
    table = GrowingTable(path)
    table.open(0)
    count = 300
    for step in range(count):
        table.append(rows(step, step + 1))
        assert len(list(path.parent.iterdir())) <= math.log2(count) + 1
    assert sum(written) <= count * (math.log2(count) + 1)
    assert len(read_table(path)) == count


@pytest.mark.parametrize("kill", range(1, 40, 2))
def test_a_kill_at_any_write_or_removal(path: Path, monkeypatch, kill: int) -> None:
    calls = 0

    def killing(function):
        def call(*arguments, **more):
            nonlocal calls
            calls += 1
            if calls == kill:
                raise Killed
            return function(*arguments, **more)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(growing_table, "atomic_write", killing(growing_table.atomic_write))
        patch.setattr(Path, "unlink", killing(Path.unlink))
        table, saved = GrowingTable(path), 0
        with pytest.raises(Killed):
            table.open(0)
            for step in range(0, 100, 2):
                table.append(rows(step, step + 2))
                saved = step + 2  # as a checkpoint is, once its rows are on disk
    if saved:
        assert read_table(path).slice(0, saved).equals(rows(0, saved))
    again = GrowingTable(path)
    assert len(again.open(saved)) == saved
    again.append(rows(saved, 100))
    assert read_table(path).equals(rows(0, 100))


def test_rows_after_the_checkpoint_are_dropped(path: Path) -> None:
    table = GrowingTable(path)
    table.open(0)
    for step in range(10):
        table.append(rows(step, step + 1))
    assert GrowingTable(path).open(4).equals(rows(0, 4))
    assert read_table(path).equals(rows(0, 4))
    GrowingTable(path).open(0)
    assert not list(path.parent.iterdir())
