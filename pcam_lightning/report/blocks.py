"""Blocks of a report, independent of the output format: text, tables and pictures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pcam_lightning.errors import one_line, printable

BROAD = 1600
"""Width in pixels from which a chart has the page's width."""
Value = str | float | None
"""Content of a table cell; None and NaN are shown as a dash."""


@dataclass(frozen=True)
class Source:
    """Origin of a figure: the files that it was read from, and the runs that wrote them."""

    files: tuple[str, ...]
    command: str
    """The command that wrote the first file."""
    dataset: str
    """Name of the data set, with the first characters of its fingerprint."""
    seeds: tuple[str, ...]
    commits: tuple[str, ...]
    is_demo: bool

    def describe(self) -> str:
        """Return the origin as one line."""
        first, *others = self.files
        more = f" and {len(others)} more" if others else ""
        facts = [f"{first}{more}", f"data set {self.dataset}"]
        for name, values in (("seed", self.seeds), ("commit", self.commits)):
            shown = ", ".join(values[:3]) + (f" and {len(values) - 3} more" * (len(values) > 3))
            facts.append(f"{name}{'s' * (len(values) > 1)} {shown or 'not recorded'}")
        return one_line("; ".join(facts), 2000)


@dataclass(frozen=True)
class Text:
    """A paragraph.

    `missing` names the command that would make a section's input, `warning` something that the
    reader must know.
    """

    text: str
    kind: Literal["plain", "missing", "warning"] = "plain"


@dataclass(frozen=True)
class Notes:
    """Paragraphs in Markdown, written by a person."""

    markdown: str


@dataclass(frozen=True)
class Column:
    """A column of a table; `format` is applied to numbers, and text is aligned to the left."""

    name: str
    format: str = "{:.4g}"

    def show(self, value: Value) -> str:
        """Return the text of a cell."""
        if isinstance(value, str):
            return printable(value)
        return "-" if value is None or math.isnan(value) else self.format.format(value)


@dataclass(frozen=True)
class Table:
    """A table whose rows can be sorted by any column."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Value]]
    source: Source | None
    note: str = ""
    is_detail: bool = False
    """True if the table is shown on demand."""
    highlight: int | None = None
    """The row to highlight, such as the best configuration."""


@dataclass(frozen=True)
class Picture:
    """A picture as PNG."""

    title: str
    png: bytes
    size: tuple[int, int]
    """Width and height in pixels."""
    source: Source
    is_chart: bool = True
    """True for lines on white, whose colors a dark page inverts; False for photographs."""

    @property
    def is_broad(self) -> bool:
        """True for a chart of several panels, which is shown as wide as the page."""
        return self.is_chart and self.size[0] >= BROAD


Block = Text | Notes | Table | Picture


@dataclass(frozen=True)
class Section:
    """A section of the report."""

    anchor: str
    title: str
    blocks: list[Block] = field(default_factory=list)


def as_json(section: Section, pictures: dict[int, str]) -> dict[str, Any]:
    """Return a section as plain containers; `pictures` maps `id(picture)` to its file name."""
    blocks: list[dict[str, Any]] = []
    for block in section.blocks:
        if isinstance(block, Text):
            blocks.append({"type": "text", "kind": block.kind, "text": block.text})
        elif isinstance(block, Notes):
            blocks.append({"type": "notes", "markdown": block.markdown})
        elif isinstance(block, Table):
            names = [column.name for column in block.columns]
            blocks.append(
                {"type": "table", "title": block.title, "columns": names}
                | {"rows": [list(row) for row in block.rows], "note": block.note}
                | {"source": block.source and vars(block.source)}
            )
        else:
            blocks.append(
                {"type": "picture", "title": block.title, "file": pictures[id(block)]}
                | {"source": vars(block.source)}
            )
    return {"anchor": section.anchor, "title": section.title, "blocks": blocks}


def pictures_of(sections: Iterable[Section]) -> list[Picture]:
    """Return all pictures of sections, in their order."""
    return [block for section in sections for block in section.blocks if isinstance(block, Picture)]
