"""The document: all sections of a report, in the order of a lab journal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pcam_lightning.checks.outcome import Outcome
from pcam_lightning.report.blocks import Picture, Section, Text
from pcam_lightning.report.notes import merge_notes
from pcam_lightning.report.records import Records
from pcam_lightning.report.sections import (
    configuration,
    data,
    errors,
    gradients,
    handover,
    reproducibility,
    search,
    throughput,
    tracking,
    verdict,
)

SECTIONS = (
    reproducibility, data, configuration, gradients, tracking, search, errors, throughput, handover,
)  # fmt: skip
"""Modules of the sections after the verdict."""
PICTURE_BYTES = 20_000_000
"""Largest total size of the pictures; later ones are left out."""


@dataclass(frozen=True)
class Document:
    """A report, independent of its format."""

    title: str
    datasets: tuple[str, ...]
    is_demo: bool
    sections: list[Section]


def compose_document(
    title: str, records: Records, outcomes: Sequence[Outcome], notes: dict[str, str]
) -> Document:
    """Return the report on finished folders.

    Args:
        title: its heading.
        records: the folders.
        outcomes: the results of all checks on them.
        notes: as from `read_notes`.
    """
    sections = [verdict.build(records, outcomes), *(each.build(records) for each in SECTIONS)]
    _limit_pictures(sections)
    datasets = tuple(dict.fromkeys(each.dataset for each in records.every if each.dataset))
    return Document(
        title, datasets, any(each.is_demo for each in records.every), merge_notes(sections, notes)
    )


def _limit_pictures(sections: list[Section]) -> None:
    """Replace pictures beyond `PICTURE_BYTES` by a line that says so."""
    total = 0
    for section in sections:
        for place, block in enumerate(section.blocks):
            if isinstance(block, Picture):
                total += len(block.png)
                if total > PICTURE_BYTES:
                    text = f"Not shown, as the page would become too large: {block.source.files[0]}"
                    section.blocks[place] = Text(text, "warning")
