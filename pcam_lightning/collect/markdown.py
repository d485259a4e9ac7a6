"""Text for a Markdown table."""

import re

from pcam_lightning.errors import one_line


def markdown(text: object) -> str:
    """Return `text` as one line that Markdown and HTML show as it is, in a table too."""
    return re.sub(r"([\\`*_\[\]<>#|~$&!])", r"\\\1", one_line(text))
