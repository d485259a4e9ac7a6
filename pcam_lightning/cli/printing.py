"""Standard output and error that cannot fail a run."""

import errno
import io
import os
import select
import sys
from contextlib import suppress
from typing import Any


class LossyFile(io.FileIO):
    """A file descriptor whose output is dropped from the first write on that fails.

    A reader that has gone (`| head -1`), a full disk or a lost terminal then costs the output, not
    the work. The descriptor becomes that of /dev/null, so that libraries and child processes which
    write to it continue as well.
    """

    def write(self, data: Any, /) -> int:
        try:
            while (written := super().write(data)) is None:  # a descriptor that does not block
                select.select([], [self], [])
            return written
        except OSError as error:
            _fill(self.fileno())
            if self.fileno() == 1 and error.errno != errno.EPIPE:  # `| head` is meant that way
                print(f"warning: stdout cannot be written: {error.strerror}", file=sys.stderr)
            return memoryview(data).nbytes


def keep_printing() -> None:
    """Make prints, log lines and progress bars of this process harmless where they cannot be shown.

    Does nothing where stdout and stderr have been replaced, as by pytest.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:  # closed: the next file that is opened would get this number
            _fill(number)
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream: Any = getattr(sys, name)
        if stream is None or stream is getattr(sys, f"__{name}__"):
            setattr(sys, name, _stream(number, stream))


def _stream(number: int, replaced: io.TextIOWrapper | None) -> io.TextIOWrapper:
    if replaced is None:  # closed, and the number may be that of another file by now
        return open(os.devnull, "w", errors="backslashreplace")
    raw = LossyFile(number, "w", closefd=False)
    with suppress(OSError):
        replaced.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=replaced.encoding,
        errors="backslashreplace",  # for names that the terminal's encoding has no letters for
        line_buffering=replaced.line_buffering or replaced.write_through,
    )


def _fill(number: int) -> None:
    """Make a descriptor that of /dev/null."""
    null = os.open(os.devnull, os.O_RDWR)
    if null != number:
        os.dup2(null, number)
        os.close(null)
