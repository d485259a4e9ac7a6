"""Text from files, made harmless for a terminal, a log, a picture, Markdown or a spreadsheet."""

import logging
import re

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""Beginnings of a cell that spreadsheets compute instead of showing it."""


def printable(text: str) -> str:
    r"""Return `text` with every character that is not printed written as an escape, such as \x1b.

    These are control characters (line breaks too), the marks that turn the direction of writing,
    and lone surrogates, which no encoding has.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def one_line(text: object, limit: int = 300) -> str:
    """Return `text` without line breaks and control characters, cut to `limit` characters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def markdown(text: object) -> str:
    """Return `text` as one line that Markdown and HTML show as it is, in a table too."""
    return re.sub(r"([\\`*_\[\]<>#|~$&!])", r"\\\1", one_line(text))


def spreadsheet_cell(value: object) -> object:
    """Return a table's value as a CSV may hold it: text that looks like a formula gets a quote.

    Numbers stay as they are, those in text form (`-0.5`) too.
    """
    if not isinstance(value, str) or not value.startswith(FORMULA):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


class LineFormatter(logging.Formatter):
    """A log formatter whose lines hold printable characters only."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's text, its own line breaks kept."""
        return "\n".join(map(printable, super().format(record).split("\n")))
