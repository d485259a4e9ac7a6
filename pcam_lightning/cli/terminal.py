"""Terminal output of the commands."""

from typing import Any

from rich.console import Console
from rich.text import Text

from pcam_lightning.errors import printable


class Terminal(Console):
    """A console that interprets no markup, no emoji codes and no control characters.

    Names of data sets, slides and files are untrusted. Table cells and titles pass through
    `render_str`, too.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **options)
