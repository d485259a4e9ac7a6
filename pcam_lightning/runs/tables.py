"""Readers and writers of CSV and parquet tables in a run folder.

Readers check size and types, because a run folder is not trusted. Writers escape text that a
spreadsheet would execute as a formula.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING

from pcam_lightning.errors import one_line
from pcam_lightning.runs.files import RunFileError, read_file

if TYPE_CHECKING:
    import pandas
    import pyarrow
    from pyarrow.parquet import FileMetaData

CSV_BYTES = 256 << 20
PARQUET_BYTES = 2 << 30
ROWS = 20_000_000
VALUES = 500_000_000
"""Maximum of rows times columns; 100 epochs of densenet121 on PCam give 80 million."""
UNPACKED_BYTES = 8 << 30
COLUMNS = 10_000


def csv_bytes(table: pandas.DataFrame) -> bytes:
    """Return a table as CSV (UTF-8); `spreadsheet_cell` escapes its text cells and names.

    A carriage return becomes the two characters `\\r`: Python (3.11) does not quote it, and a
    spreadsheet would start a new row there.
    """

    def cell(value: object) -> object:
        return spreadsheet_cell(value.replace("\r", r"\r") if isinstance(value, str) else value)

    plain = table.rename(columns=cell)
    for place, kind in enumerate(table.dtypes):
        if kind.kind not in "iufb":
            plain.isetitem(place, _mapped(table.iloc[:, place], cell))
    return plain.to_csv(index=False).encode(errors="replace")


def parquet_bytes(table: pandas.DataFrame) -> bytes:
    """Return a table as parquet; lone surrogates in text, which cannot be encoded, become `?`."""
    plain = table.copy(deep=False)
    for place, kind in enumerate(table.dtypes):
        if kind.kind not in "iufb":
            plain.isetitem(place, _mapped(table.iloc[:, place], _encodable))
    return plain.to_parquet(index=False)


def read_csv(path: Path) -> pandas.DataFrame:
    """Return a table of numbers, without a last line that is still being written.

    Raises:
        RunFileError: the file is missing or damaged, or a column holds anything but numbers.
    """
    import pandas

    content = read_file(path, CSV_BYTES)
    # A half-written number at the end would be read as another number.
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole.partition(b"\n")[0].split(b",")) > COLUMNS:
        raise RunFileError(f"{path}: expected at most {COLUMNS:,} columns")
    try:
        table = pandas.read_csv(io.BytesIO(whole), index_col=False)
    except (ValueError, OverflowError) as error:
        raise RunFileError(f"{path} cannot be read: {one_line(error)}") from None
    for name, kind in zip(table.columns, table.dtypes, strict=True):
        if kind.kind not in "iuf":
            raise RunFileError(f"{path}: column {one_line(name, 60)} holds no numbers")
    return table


def read_parquet(
    path: Path, *, whole: Collection[str] = (), lists: Collection[str] = ()
) -> pandas.DataFrame:
    """Return a table of numbers and text; arguments and errors as in `read_arrow`."""
    arrow = read_arrow(path, whole=whole, lists=lists)
    text = [field.name for field in arrow.schema if _is_text(field.type)]
    # Dictionaries compare and join unlike text.
    return arrow.to_pandas().astype(dict.fromkeys(text, object))


def read_arrow(
    path: Path,
    *,
    whole: Collection[str] = (),
    lists: Collection[str] = (),
    columns: Collection[str] | None = None,
) -> pyarrow.Table:
    """Return a table of numbers and text; text columns are dictionary-encoded.

    Args:
        path: the file.
        whole: columns that must hold integers, if the table has them.
        lists: columns that may hold lists of numbers.
        columns: columns to read, if the table has them; None reads all.

    Raises:
        RunFileError: the file is missing, not parquet or too large, or has two columns of one name
            or a column of another type.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    content = read_file(path, PARQUET_BYTES)
    try:
        with pq.ParquetFile(pa.BufferReader(content)) as file:
            _check_size(path, file.metadata)
            _check_columns(path, file.schema_arrow, whole, lists)
        text = [field.name for field in file.schema_arrow if _is_text(field.type)]
        # Repeated text takes memory once.
        file = pq.ParquetFile(pa.BufferReader(content), read_dictionary=text)
        names = file.schema_arrow.names
        arrow = file.read(None if columns is None else [each for each in names if each in columns])
        # pandas metadata is JSON of any depth and would choose the index.
        return arrow.replace_schema_metadata(None)
    except RunFileError:
        raise
    except (pa.ArrowException, ValueError, OSError, KeyError, TypeError, RecursionError) as error:
        reason = one_line(error)
        raise RunFileError(f"{path}: not a readable parquet file ({reason})") from None


def _check_size(path: Path, metadata: FileMetaData) -> None:
    if metadata.num_rows > ROWS or metadata.num_columns > COLUMNS:
        raise RunFileError(
            f"{path}: {metadata.num_rows:,} rows and {metadata.num_columns:,} columns, expected at "
            f"most {ROWS:,} and {COLUMNS:,}"
        )
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    columns = [group.column(i) for group in groups for i in range(group.num_columns)]
    values = sum(column.num_values for column in columns)
    size = sum(column.total_uncompressed_size for column in columns)
    if values > VALUES or size > UNPACKED_BYTES or sum(g.num_rows for g in groups) > ROWS:
        raise RunFileError(
            f"{path}: {values:,} values of {size:,} bytes, expected at most "
            f"{VALUES:,} of {UNPACKED_BYTES:,}"
        )


def _check_columns(
    path: Path, schema: pyarrow.Schema, whole: Collection[str], lists: Collection[str]
) -> None:
    from pyarrow import types

    if len(set(schema.names)) != len(schema.names):
        raise RunFileError(f"{path}: two columns of one name")
    for field in schema:
        kind, name = field.type, one_line(field.name, 60)
        if field.name in whole and not types.is_integer(kind):
            raise RunFileError(
                f"{path}: column {name} holds {one_line(kind, 60)}, expected integers"
            )
        if types.is_dictionary(kind):
            kind = kind.value_type
        if types.is_list(kind) and field.name in lists:
            kind = kind.value_type
        number = types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)
        if not number and not types.is_null(kind) and not _is_text(kind):
            raise RunFileError(
                f"{path}: column {name} holds {one_line(field.type, 60)}, expected numbers or text"
            )


def _is_text(kind: pyarrow.DataType) -> bool:
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    return types.is_string(kind) or types.is_large_string(kind)


def _mapped(column: pandas.Series, function: Callable[[object], object]) -> pandas.Series:
    # Series.map would convert integers beside None to floats.
    import pandas

    return pandas.Series([function(value) for value in column], column.index, dtype=object)


def _encodable(value: object) -> object:
    return value.encode(errors="replace").decode() if isinstance(value, str) else value


FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""First characters of a cell that spreadsheets take for a formula."""


def spreadsheet_cell(value: object) -> object:
    """Return a value with a leading quote if it is text that looks like a formula.

    Numbers do not change, even in text form (`-0.5`).
    """
    if not isinstance(value, str) or not value.startswith(FORMULA):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value
