"""The terminal as commands print to it."""

from typing import Any

from rich.console import Console
from rich.text import Text

from pcam_lightning.errors import printable


class Terminal(Console):
    """A console that shows every text as it is: no markup, no emoji codes, no control characters.

    Names of data sets, slides and files come from others. Cells and titles of tables pass through
    `render_str` as well as printed lines.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **options)
