"""Format of log lines."""

import logging

from pcam_lightning.errors import printable


class LineFormatter(logging.Formatter):
    """A log formatter that escapes unprintable characters."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's text with its line breaks."""
        return "\n".join(map(printable, super().format(record).split("\n")))
