"""A parquet table to which rows are appended without rewriting the whole file."""

from collections.abc import Collection
from itertools import count, takewhile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pcam_lightning.files import atomic_write
from pcam_lightning.runs.files import RunFileError
from pcam_lightning.runs.tables import read_arrow

INTEGERS = ("step", "epoch", "batch")
"""Columns that must hold integers, if the table has them."""
LISTS = ("rows", "losses")
"""Columns that may hold lists of numbers."""


class GrowingTable:
    """A table with an ascending column `step`, stored in several files while it grows.

    The part after `gradients.parquet` is `gradients.1.parquet` and so on. Each part has fewer rows
    than the previous one; otherwise the two are merged. So n rows have at most log2(n) parts, and
    each row is written at most log2(n) times.

    A kill at any moment leaves files that `read_table` can read: a merged part precedes the parts
    that it replaces, and a step counts once.

    Args:
        path: file of the first part, and of the whole table after `join`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._parts: list[pa.Table] = []

    def open(self, step: int) -> pa.Table:
        """Keep the rows before a step on disk, remove all others, and return the kept rows."""
        schema = pa.schema({"step": pa.int64()})
        kept = pa.Table.from_batches([], schema)  # other ways import pandas, before the first step
        if step and self.path.is_file():
            table = read_table(self.path)
            kept = table.filter(table["step"].to_numpy() < step)
        self._parts = [kept] if len(kept) else []
        if len(kept):
            self._write(0)
        else:
            self.path.unlink(missing_ok=True)
        self._drop_behind(len(self._parts))
        return kept

    def append(self, table: pa.Table) -> None:
        """Add rows with later steps, and write them to disk."""
        self._parts.append(table)
        first = len(self._parts) - 1
        while first and len(self._parts[first - 1]) <= sum(map(len, self._parts[first:])):
            first -= 1
        self._merge(first)

    def join(self) -> None:
        """Merge all parts into the first file."""
        if len(self._parts) > 1:
            self._merge(0)

    def _merge(self, first: int) -> None:
        """Merge the parts from number `first` on."""
        self._parts[first:] = [pa.concat_tables(self._parts[first:], promote_options="default")]
        self._write(first)
        self._drop_behind(first + 1)

    def _write(self, number: int) -> None:
        content = pa.BufferOutputStream()
        pq.write_table(self._parts[number], content)
        atomic_write(_part(self.path, number), content.getvalue().to_pybytes())

    def _drop_behind(self, number: int) -> None:
        for path in reversed(_parts(self.path, number)):
            path.unlink()


def read_table(path: Path, columns: Collection[str] | None = None) -> pa.Table:
    """Return all rows of a growing table, joined or not.

    Args:
        path: file of the first part.
        columns: columns to read besides `step`, if the table has them; None reads all.

    Raises:
        RunFileError: a file is missing or damaged.
    """
    names = None if columns is None else {"step", *columns}
    table = read_arrow(path, whole=INTEGERS, lists=LISTS, columns=names)
    for part in _parts(path, 1):
        newer = read_arrow(part, whole=INTEGERS, lists=LISTS, columns=names)
        if not all("step" in each.column_names for each in (table, newer)):
            raise RunFileError(f"{part}: no column step in this file or the previous one")
        last = table["step"].to_numpy().max(initial=-1)
        newer = newer.filter(newer["step"].to_numpy() > last)
        table = pa.concat_tables([table, newer], promote_options="default")
    return table


def _part(path: Path, number: int) -> Path:
    return path.with_suffix(f".{number}{path.suffix}") if number else path


def _parts(path: Path, first: int) -> list[Path]:
    """Return the files of a table from number `first` on, up to the first gap."""
    return list(takewhile(Path.is_file, (_part(path, number) for number in count(first))))
