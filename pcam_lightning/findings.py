"""What an audit can find in a data set, and the table it puts that in."""

from pathlib import Path
from typing import TYPE_CHECKING

from pcam_lightning.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

KINDS = {
    "nan": "pixels that are NaN; value: how many",
    "infinity": "pixels that are infinite; value: how many",
    "out_of_range": "finite pixels outside 0..255; value: how many",
    "black": "a mean of at most 1; value: the mean",
    "white": "a mean of at least 254; value: the mean",
    "outlier": "a mean more than 3 interquartile ranges outside the quartiles; value: the mean",
    "duplicate": "equals an earlier patch of its split; value: that patch",
    "contradiction": "equals a patch with the other label; value: that patch",
    "cross_split_duplicate": "equals a patch of another split; value: that patch",
    "slide_overlap": "its slide is in another split as well; value: slide and split",
    "invalid_label": "a label other than 0 and 1; value: the label",
    "label_mismatch": "a label other than in the meta file; value: both",
}
"""What each kind says of a patch, and what its value is. A patch is named as split:row."""

FAULTS = tuple(kind for kind in KINDS if kind != "outlier")
"""What no sound data set has; an unusual mean may well be right."""

COLUMNS = ["split", "row", "kind", "value"]


def write_findings(table: "pd.DataFrame", path: Path, fingerprint: str) -> None:
    """Write findings (`COLUMNS`) as parquet, marked with the data set they were made on."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrow = pa.Table.from_pandas(table[COLUMNS], preserve_index=False)
    pq.write_table(arrow.replace_schema_metadata({"fingerprint": fingerprint}), path)


def read_findings(path: Path) -> "tuple[pd.DataFrame, str]":
    """The table and the fingerprint of the data set it was made on.

    Raises:
        InputError: no such file, or not one that `write_findings` wrote.
    """
    import pyarrow.parquet as pq

    if not path.is_file():
        raise InputError(f"{path}: no such file, expected the findings.parquet of an audit")
    try:
        arrow = pq.read_table(path)
        table = arrow.select(COLUMNS).to_pandas()
        fingerprint = (arrow.schema.metadata or {})[b"fingerprint"].decode()
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{path}: not the findings of an audit ({reason}), expected parquet with the columns "
            f"{', '.join(COLUMNS)} and a fingerprint"
        ) from None
    return table, fingerprint
