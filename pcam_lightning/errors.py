"""What ends a command with one line and no traceback."""

import signal
from collections.abc import Sequence
from pathlib import Path


class CheckFailed(Exception):
    """A command did its work, and the check that it was asked for failed: exit code 1.

    Args:
        message: one line that says what failed.
        summary: the path of the command's `summary.json`, which is whole.
    """

    def __init__(self, message: str, summary: Path) -> None:
        super().__init__(message)
        self.summary = summary


class Diverged(Exception):
    """Training met numbers that are not finite, and cannot continue: exit code 1.

    Args:
        step: the optimizer step, from 0.
        loss: of that step.
        lr: the learning rate of that step.
        reason: what is not finite, where it is not the loss.
    """

    def __init__(self, step: int, loss: float, lr: float, reason: str | None = None) -> None:
        place = f"diverged at step {step} (loss {loss:.4g}, lr {lr:.4g})"
        super().__init__(f"{place}: {reason}" if reason else place)


class Preempted(BaseException):
    """A signal asked the command to stop, and what it has done is saved: exit code 128 + signal.

    Like KeyboardInterrupt, it passes through code that handles every Exception.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"signal {signal.Signals(number).name}")
        self.number, self.exit_code = number, 128 + number


class InputError(ValueError):
    """What was given cannot be used: a config value, a file, a run folder, a device.

    Its text is one line that names the file, row or key at fault, what was expected and, where
    there are any, the valid choices. Commands print it and exit with code 2; any other exception
    is a bug of ours and shows its traceback.
    """


class PreflightError(InputError):
    """What would make the jobs of a sweep fail, one line for each problem."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = list(problems)


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
