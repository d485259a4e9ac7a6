"""Standard output and error streams whose faults cannot fail a run."""

import errno
import io
import os
import select
import sys
from contextlib import suppress
from typing import Any


class LossyFile(io.FileIO):
    """A file that drops its output after the first failed write.

    If the reader has gone (`| head -1`), the disk is full or the terminal is lost, the output is
    lost and the run continues. The descriptor is redirected to /dev/null, so that libraries and
    child processes that write to it continue, too.
    """

    def write(self, data: Any, /) -> int:
        try:
            while (written := super().write(data)) is None:  # a non-blocking descriptor
                select.select([], [self], [])
            return written
        except OSError as error:
            _redirect_to_null(self.fileno())
            if self.fileno() == 1 and error.errno != errno.EPIPE:  # `| head` needs no warning
                print(f"warning: stdout cannot be written: {error.strerror}", file=sys.stderr)
            return memoryview(data).nbytes


def keep_printing() -> None:
    """Keep a failing stdout or stderr from failing this process's prints, logs and progress bars.

    Does nothing if stdout and stderr have been replaced, as by pytest.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:  # closed; otherwise the next opened file would get this number
            _redirect_to_null(number)
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream: Any = getattr(sys, name)
        if stream is None or stream is getattr(sys, f"__{name}__"):
            setattr(sys, name, _stream(number, stream))


def _stream(number: int, replaced: io.TextIOWrapper | None) -> io.TextIOWrapper:
    if replaced is None:  # closed; another file may have its number by now
        return open(os.devnull, "w", errors="backslashreplace")
    raw = LossyFile(number, "w", closefd=False)
    with suppress(OSError):
        replaced.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=replaced.encoding,
        errors="backslashreplace",  # for characters that the terminal's encoding lacks
        line_buffering=replaced.line_buffering or replaced.write_through,
    )


def _redirect_to_null(number: int) -> None:
    """Make a file descriptor refer to /dev/null."""
    null = os.open(os.devnull, os.O_RDWR)
    if null != number:
        os.dup2(null, number)
        os.close(null)
