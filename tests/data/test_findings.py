"""Findings tables are read as an audit wrote them; any other file is a one-line error."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pcam_lightning.data import findings
from pcam_lightning.data.findings import read_findings, write_findings
from pcam_lightning.errors import InputError

LENGTHS = {"train": 48, "valid": 20, "test": 20}
SOUND = {
    "split": ["train", "test", "valid"],
    "row": [0, 19, 7],
    "kind": ["nan_pixels", "duplicate", "black"],
    "value": ["3", "test:2", "0.5"],
}


def table(**columns) -> pa.Table:
    return pa.table(SOUND | columns)


def put(path: Path, arrow: pa.Table) -> Path:
    pq.write_table(arrow.replace_schema_metadata({"fingerprint": "f" * 32}), path)
    return path


def test_written_findings_are_read(tmp_path: Path) -> None:
    path = tmp_path / "split=test" / "findings.parquet"  # a folder named like a column
    path.parent.mkdir()
    written = pd.DataFrame(SOUND)
    write_findings(written, path, "abc")
    read, fingerprint = read_findings(path, LENGTHS)
    pd.testing.assert_frame_equal(read, written)
    assert fingerprint == "abc"
    write_findings(written.iloc[:0], path, "abc")
    assert read_findings(path, LENGTHS)[0].empty


def test_kinds_of_an_earlier_version_are_translated() -> None:
    """`findings_v0.parquet` was written by version 0.1.0."""
    path = Path(__file__).parent / "findings_v0.parquet"
    assert "nan" in pq.read_table(path)["kind"].to_pylist()
    kinds = set(read_findings(path)[0]["kind"])
    assert "nan_pixels" in kinds and "nan" not in kinds


@pytest.mark.parametrize("kind", ["uint8", "int32", "uint64"])
def test_integers_of_any_width_are_rows(tmp_path: Path, kind: str) -> None:
    path = put(tmp_path / "f.parquet", table(row=np.array([0, 19, 7], kind)))
    read, _ = read_findings(path, LENGTHS)
    assert read["row"].dtype == np.int64 and read["row"].tolist() == [0, 19, 7]


# Each would exclude the wrong patches from training, or none.
UNSOUND = {
    "negative row": table(row=[0, -1, 7]),
    "row beyond the end": table(row=[0, 20, 7]),
    "uint64 that wraps": table(row=np.array([0, 2**64 - 1, 7], np.uint64)),
    "floats": table(row=[0.0, 1.0, 7.0]),
    "text rows": table(row=["0", "1", "7"]),
    "missing row": table(row=[0, None, 7]),
    "unknown split": table(split=["train", "val", "test"]),
    "control characters": table(split=["train", "\x1b[2J\n", "test"]),
    "missing split": table(split=["train", None, "test"]),
    "numbered splits": table(split=[0, 1, 2]),
    "unknown kind": table(kind=["nan_pixels", "dust", "black"]),
    "missing kind": table(kind=["nan_pixels", None, "black"]),
    "bytes": table(kind=[b"nan_pixels", b"nan_pixels", b"nan_pixels"]),
    "no column row": table().drop_columns("row"),
    "two columns row": table().append_column("row", pa.array([1, 2, 3])),
}


@pytest.mark.parametrize("name", UNSOUND)
def test_unsound_findings_are_one_line(tmp_path: Path, name: str) -> None:
    path = put(tmp_path / "f.parquet", UNSOUND[name])
    with pytest.raises(InputError) as caught:
        read_findings(path, LENGTHS)
    line = str(caught.value)
    assert str(path) in line and len(line.splitlines()) == 1 and line.isprintable()


def test_rows_are_checked_as_far_as_lengths_are_known(tmp_path: Path) -> None:
    path = put(tmp_path / "f.parquet", table(row=[0, 20, 7]))
    assert read_findings(path)[0]["row"].tolist() == [0, 20, 7]
    with pytest.raises(InputError):
        read_findings(put(tmp_path / "f.parquet", table(row=[0, -20, 7])))


def test_files_that_are_no_findings_are_one_line(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "f.parquet"
    for content in (b"", b"PAR1", b"PAR1" + bytes(100) + b"PAR1"):
        path.write_bytes(content)
        with pytest.raises(InputError, match="not the findings of an audit"):
            read_findings(path, LENGTHS)
    pq.write_table(table(), path)
    with pytest.raises(InputError, match="fingerprint"):
        read_findings(path, LENGTHS)
    put(path, table())
    for limit, most in (("MAXIMUM_ROWS", 2), ("MAXIMUM_BYTES", 10)):
        with monkeypatch.context() as patch:
            patch.setattr(findings, limit, most)
            with pytest.raises(InputError, match="3 rows"):
                read_findings(path, LENGTHS)
    assert len(read_findings(path, LENGTHS)[0]) == 3
