"""Notes that people wrote for a report: a Markdown file whose sections are merged in."""

from __future__ import annotations

from pathlib import Path

from markdown_it import MarkdownIt

from pcam_lightning.errors import InputError
from pcam_lightning.report.blocks import Notes, Section
from pcam_lightning.runs.files import RunFileError, read_file

BYTES = 4 << 20


def markdown_parser() -> MarkdownIt:
    """Return a parser without HTML and images: a page makes no request to the network."""
    return MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")


def read_notes(path: str) -> dict[str, str]:
    """Return the text below each heading of the two highest levels; "" is the text before them.

    Raises:
        InputError: the file is missing, not UTF-8, or too large.
    """
    where = f"report.notes={path}"
    try:
        text = read_file(Path(path), BYTES).decode("utf-8")
    except RunFileError as error:
        raise InputError(f"{where}: {error}, expected a Markdown file") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8 at byte {error.start}") from None
    lines = text.splitlines()
    tokens = markdown_parser().parse(text)
    # Lines of headings, so that a "#" inside a block of code is none.
    headings = [
        (token.map, tokens[place + 1].content)
        for place, token in enumerate(tokens)
        if token.type == "heading_open" and token.tag in ("h1", "h2") and token.level == 0
        and token.map
    ]  # fmt: skip
    found: dict[str, str] = {}
    starts = [(0, 0, ""), *((begin, end, title) for (begin, end), title in headings)]
    for place, (_, begin, title) in enumerate(starts):
        end = starts[place + 1][0] if place + 1 < len(starts) else len(lines)
        body = "\n".join(lines[begin:end]).strip()
        if body:
            found[title] = f"{found[title]}\n\n{body}" if title in found else body
    return found


def merge_notes(sections: list[Section], notes: dict[str, str]) -> list[Section]:
    """Add notes to the sections whose title or anchor is their heading.

    Notes before the first heading are added to the first section. Other headings become sections of
    their own at the end.
    """
    merged = list(sections)
    by_name = {name.lower(): each for each in sections for name in (each.title, each.anchor)}
    by_name[""] = sections[0]
    for number, (title, body) in enumerate(notes.items()):
        section = by_name.get(title.strip().lower())
        if section is None:
            section = Section(f"notes-{number}", title.strip())
            merged.append(section)
        section.blocks.insert(1 if section is sections[0] else 0, Notes(body))
    return merged
