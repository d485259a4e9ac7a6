"""Text from files is escaped for Markdown and terminals."""

from html import unescape

import pytest
from markdown_it import MarkdownIt

from pcam_lightning.errors import one_line
from pcam_lightning.runs.markdown import markdown


@pytest.mark.parametrize(
    "text",
    [
        "a|b",
        "<b>x</b>",
        "[a](http://b)",
        "*a* __b__",
        "`a`",
        "~~a~~",
        "![a](b)",
        "&lt;",
        "\\|",
        "# a",
    ],
)
def test_markdown_shows_text_as_it_is(text: str) -> None:
    table = f"| {markdown(text)} | 1 |\n|---|---|\n"
    html = MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(table)
    cells = [line[4:-5] for line in html.splitlines() if line.startswith("<th>")]
    assert [unescape(cell) for cell in cells] == [text, "1"]
    assert "<" not in cells[0]


def test_one_line() -> None:
    assert one_line("a\nb\t c\x1b[2Jd") == "a b c [2Jd"
    assert one_line("abcdef", 4) == "abc…"
