"""The lines of log files."""

import logging

from pcam_lightning.errors import printable


class LineFormatter(logging.Formatter):
    """A log formatter whose lines hold printable characters only."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's text, its own line breaks kept."""
        return "\n".join(map(printable, super().format(record).split("\n")))
