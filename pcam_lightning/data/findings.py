"""Findings of an audit: their kinds, and the table that stores them."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pcam_lightning.errors import InputError, one_line

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from pyarrow.parquet import FileMetaData

KINDS = {
    "nan_pixels": "pixels that are NaN; value: how many",
    "infinity": "pixels that are infinite; value: how many",
    "out_of_range": "finite pixels outside 0..255; value: how many",
    "black": "a mean of at most 1; value: the mean",
    "white": "a mean of at least 254; value: the mean",
    "outlier": "a mean more than 3 interquartile ranges outside the quartiles; value: the mean",
    "duplicate": "equals an earlier patch of its split; value: that patch",
    "contradiction": "equals a patch with the other label; value: that patch",
    "cross_split_duplicate": "equals a patch of another split; value: that patch",
    "near_duplicate": "shows the same tissue as an earlier patch of its split; value: that patch",
    "cross_split_near_duplicate": "shows the tissue of a patch of another split; value: that patch",
    "slide_overlap": "its slide is in another split as well; value: slide and split",
    "invalid_label": "a label other than 0 and 1; value: the label",
    "label_mismatch": "a label other than in the meta file; value: both",
}
"""Kinds of findings, each with its meaning and its value. Patches are named split:row."""

FAULTS = tuple(kind for kind in KINDS if kind not in ("outlier", "near_duplicate"))
"""Kinds that are faults of the data. A patch with an unusual mean may be valid, and a shifted patch
shows its split other tissue in the center, which decides the label."""

EARLIER_KINDS = {"nan": "nan_pixels"}
"""Names of kinds in findings of earlier versions, and their current names."""

COLUMNS = ["split", "row", "kind", "value"]

MAXIMUM_ROWS, MAXIMUM_BYTES = 20_000_000, 2_000_000_000
"""Limits of an unpacked findings table; a larger one is rejected unread."""


def write_findings(table: "pd.DataFrame", path: Path, fingerprint: str) -> None:
    """Write findings (`COLUMNS`) as parquet, with the fingerprint of their data set."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrow = pa.Table.from_pandas(table[COLUMNS], preserve_index=False)
    pq.write_table(arrow.replace_schema_metadata({"fingerprint": fingerprint}), path)


def read_findings(
    path: Path, lengths: Mapping[str, int] | None = None
) -> "tuple[pd.DataFrame, str]":
    """Read findings; return the table, `row` as int64, and the fingerprint of their data set.

    Args:
        path: a file written by `write_findings`.
        lengths: number of patches of each split, if known.

    Raises:
        InputError: the file is missing or is no findings table, or a finding has an unknown split
            or kind, or a row outside its split.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from pcam_lightning.data.files import SPLITS

    if not path.is_file():
        raise InputError(f"{path}: no such file, expected the findings.parquet of an audit")
    try:
        with pq.ParquetFile(path) as file:
            _check_size(file.metadata)
            # Not pq.read_table, which derives columns from the names of folders.
            arrow = file.read(columns=COLUMNS)
        fingerprint = (arrow.schema.metadata or {})[b"fingerprint"].decode()
        if sorted(arrow.column_names) != sorted(COLUMNS):
            raise ValueError(f"columns {', '.join(arrow.column_names) or 'none'}")
        for name in COLUMNS if arrow.num_rows else ():  # an empty column has any type
            _check_column(arrow.schema.field(name).type, arrow[name], name)
        types = [(name, pa.int64() if name == "row" else pa.string()) for name in COLUMNS]
        table = arrow.select(COLUMNS).cast(pa.schema(types)).to_pandas()
    except (OSError, ValueError, KeyError, NotImplementedError) as error:
        raise InputError(
            f"{path}: not the findings of an audit ({one_line(error, 200)}), expected parquet with "
            f"the columns {', '.join(COLUMNS)} and a fingerprint"
        ) from None
    table["kind"] = table["kind"].replace(EARLIER_KINDS)
    row = table["row"]
    length = table["split"].map(dict(lengths or {})).fillna(0).astype("int64")
    for wrong, name, expected in (
        (~table["split"].isin(SPLITS), "split", f"one of {', '.join(SPLITS)}"),
        (~table["kind"].isin(list(KINDS)), "kind", f"one of {', '.join(KINDS)}"),
        ((row < 0) | ((row >= length) & (lengths is not None)), "row", "a row of its split"),
    ):
        if wrong.any():
            position = int(wrong.to_numpy().argmax())
            found = table[name].iloc[position]
            raise InputError(
                f"{path}: finding {position} has {name} {str(found)[:40]!r}, expected {expected}"
            )
    return table, fingerprint


def _check_size(metadata: "FileMetaData") -> None:
    unpacked = sum(metadata.row_group(n).total_byte_size for n in range(metadata.num_row_groups))
    if metadata.num_rows > MAXIMUM_ROWS or unpacked > MAXIMUM_BYTES:
        raise ValueError(f"{metadata.num_rows} rows of {unpacked} bytes")


def _check_column(kind: "pa.DataType", values: "pa.ChunkedArray", name: str) -> None:
    """Raise ValueError for a column that is not text (`row`: integers) or has empty cells."""
    import pyarrow as pa

    if values.null_count:
        raise ValueError(f"{values.null_count} cells of column {name} are empty")
    if name == "row":
        valid, expected = pa.types.is_integer(kind), "integers"
    else:
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        valid, expected = pa.types.is_string(kind) or pa.types.is_large_string(kind), "text"
    if not valid:
        raise ValueError(f"column {name} is {kind}, expected {expected}")
