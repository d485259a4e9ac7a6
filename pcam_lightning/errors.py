"""Exceptions that end a command with one line instead of a traceback."""

import signal
from collections.abc import Sequence
from pathlib import Path


class CheckFailed(Exception):
    """A command finished its work, and the requested check failed: exit code 1.

    Args:
        message: one line that names the failed check.
        summary: path of the command's complete `summary.json`; None if it cannot be written.
    """

    def __init__(self, message: str, summary: Path | None) -> None:
        super().__init__(message)
        self.summary = summary


class Diverged(Exception):
    """Training produced numbers that are not finite and cannot continue: exit code 1.

    Args:
        step: optimizer step, from 0.
        loss: loss of that step.
        lr: learning rate of that step.
        reason: the value that is not finite, if it is not the loss.
    """

    def __init__(self, step: int, loss: float, lr: float, reason: str | None = None) -> None:
        place = f"diverged at step {step} (loss {loss:.4g}, lr {lr:.4g})"
        super().__init__(f"{place}: {reason}" if reason else place)


class Preempted(BaseException):
    """A signal asked the command to stop; its progress is saved: exit code 128 + signal.

    Like KeyboardInterrupt, it passes through code that handles every Exception.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"signal {signal.Signals(number).name}")
        self.number, self.exit_code = number, 128 + number


class InputError(ValueError):
    """An input that cannot be used: a config value, a file, a run folder, a device.

    Its text is one line that names the file, row or key at fault, the expected value and the valid
    choices, if there are any. Commands print it and exit with code 2. Any other exception is a bug
    in this package and shows its traceback.
    """


class PreflightError(InputError):
    """Problems that would make the jobs of a sweep fail, one line each."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = list(problems)


def printable(text: str) -> str:
    r"""Return `text` with escapes such as \x1b in place of characters that are not printable.

    These are control characters, line breaks, marks that change the direction of writing, and lone
    surrogates, which cannot be encoded.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def one_line(text: object, limit: int = 300) -> str:
    """Return `text` without line breaks and control characters, cut to `limit` characters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"
