"""Text from files, made harmless for a terminal, a picture or a Markdown table."""

import re


def one_line(text: object, limit: int = 300) -> str:
    """`text` without line breaks and control characters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def markdown(text: object) -> str:
    """`text` as one line that Markdown and HTML show as it is, in a table too."""
    return re.sub(r"([\\`*_\[\]<>#|~$&!])", r"\\\1", one_line(text))
