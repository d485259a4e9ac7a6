"""The report as Markdown, with its pictures as files."""

from __future__ import annotations

from pcam_lightning.report.blocks import Block, Notes, Picture, Text
from pcam_lightning.report.document import Document
from pcam_lightning.runs.markdown import markdown


def render_markdown(document: Document, pictures: dict[int, str]) -> str:
    """Return the report as Markdown; `pictures` maps `id(picture)` to its file name."""
    lines = [f"# {markdown(document.title)}"]
    for section in document.sections:
        lines += ["", f"## {markdown(section.title)}"]
        for block in section.blocks:
            lines += ["", *_block(block, pictures)]
    return "\n".join(lines) + "\n"


def _block(block: Block, pictures: dict[int, str]) -> list[str]:
    if isinstance(block, Text):
        text = markdown(block.text)
        return [f"**{text}**" if block.kind == "warning" else text]
    if isinstance(block, Notes):
        return block.markdown.splitlines()
    source = f"Source: {markdown(block.source.describe())}" if block.source else ""
    if isinstance(block, Picture):
        image = f"![{markdown(block.title)}](<{pictures[id(block)]}>)"
        return [image, "", source, "", f"`{_code(block.source.command)}`"]
    lines = [f"### {markdown(block.title)}", ""]
    lines.append(f"| {' | '.join(markdown(column.name) for column in block.columns)} |")
    lines.append("|---" * len(block.columns) + "|")
    for place, row in enumerate(block.rows):
        cells = [
            markdown(column.show(value)) for column, value in zip(block.columns, row, strict=True)
        ]
        if place == block.highlight:
            cells = [f"**{cell}**" if cell else "" for cell in cells]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", markdown(block.note)] if block.note else []
    if block.source:
        lines += ["", source, "", f"`{_code(block.source.command)}`"]
    return lines


def _code(text: str) -> str:
    return text.replace("`", "'")
