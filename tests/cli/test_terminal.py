"""Untrusted text appears as plain text in terminals, logs and spreadsheets."""

import csv
import io
import logging

import pandas as pd
import pytest
from rich.table import Table

from pcam_lightning.cli.logs import LineFormatter
from pcam_lightning.cli.terminal import Terminal
from pcam_lightning.errors import printable
from pcam_lightning.runs.tables import csv_bytes, parquet_bytes, spreadsheet_cell

EVIL = "\x1b[2J\x1b]0;title\x07\x9b31m\u202edemo\u2066[/red][bold]:smile:\udcff\r\n\x00"


def assert_harmless(text: str) -> None:
    assert all(c.isprintable() or c == "\n" for c in text)
    assert "[/red][bold]:smile:" in text


def test_a_terminal_shows_plain_text() -> None:
    stream = io.StringIO()
    console = Terminal(file=stream, width=1000)
    table = Table(title=f"dataset: {EVIL}")
    table.add_column(EVIL)
    table.add_row(EVIL)
    console.print(table)
    console.print(f"name: {EVIL}", soft_wrap=True)
    assert_harmless(stream.getvalue())
    assert stream.getvalue().count("[/red][bold]") == 4


def test_a_log_shows_plain_text() -> None:
    record = logging.LogRecord("x", logging.INFO, "x", 1, "dataset: %s", (EVIL,), None)
    assert_harmless(LineFormatter("%(message)s").format(record))


def test_printable_text_is_unchanged() -> None:
    for text in ("plain", "Krankenhaus Köln", "数据", "", "\U0001f600"):
        assert printable(text) == text


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        ("=1+1", "'=1+1"), ("+x", "'+x"), ("-x", "'-x"), ("@x", "'@x"), ("\tx", "'\tx"),
        ("\rx", "'\rx"), ("-0.5", "-0.5"), ("+1e-3", "+1e-3"), (-1.5, -1.5), (None, None),
        ("a=1", "a=1"), ("", ""),
    ],
)  # fmt: skip
def test_a_spreadsheet_cell_holds_no_formula(value: object, cell: object) -> None:
    assert spreadsheet_cell(value) == cell


def test_a_csv_holds_no_formula_and_unchanged_numbers() -> None:
    table = pd.DataFrame(
        {"=name": ["=1", "b", None], "n": [-1.5, 2.0, float("nan")], "i": [-1, 2, 3]}
    )
    assert csv_bytes(table).decode().splitlines() == ["'=name,n,i", "'=1,-1.5,-1", "b,2.0,2", ",,3"]
    split = pd.DataFrame({"a": ["x\r=1", "\r=2", "x\n=3"]})
    rows = list(csv.reader(io.StringIO(csv_bytes(split).decode(), newline="")))
    assert rows == [["a"], [r"x\r=1"], [r"\r=2"], ["x\n=3"]]
    mixed = pd.DataFrame([{"a": -1, "b": "@x"}, {"a": None, "b": 0.1}], dtype=object)
    assert csv_bytes(mixed).decode().splitlines() == ["a,b", "-1,'@x", ",0.1"]


def test_parquet_accepts_any_file_name() -> None:
    back = pd.read_parquet(
        io.BytesIO(parquet_bytes(pd.DataFrame({"a": ["x\udcff", None]}, dtype=object)))
    )
    assert back["a"].iloc[0] == "x?"
