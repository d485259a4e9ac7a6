"""Report of a fault in one line: invalid input, and errors that the machine causes."""

import errno
import os
import sys
import traceback
from typing import Any

from hydra.errors import OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pcam_lightning.config.override_text import override
from pcam_lightning.errors import InputError, PreflightError, printable

ENVIRONMENT_ERRORS = frozenset(
    {
        *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENAMETOOLONG),
        *(errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EIO, errno.ESTALE, errno.EMFILE),
    }
)
"""Errors that the machine or a path causes, not this package."""


def report(error: Exception) -> int:
    """Print an error on stderr, a line for each problem, and return the exit code 2."""
    lines = error.problems if isinstance(error, PreflightError) else [_describe(error)]
    for line in lines:
        print(f"error: {printable(line)}", file=sys.stderr, flush=True)
    return 2


def report_environment(error: Exception) -> int:
    """Report an error of the machine, such as a full disk; raise any other one again."""
    if _environment_fault(error) is None:
        raise error
    return report(error)


def _environment_fault(error: BaseException | None) -> str | None:
    """Return one line for an error of the machine, such as a full disk; None for any other one."""
    if isinstance(error, InputError):  # says more than its cause
        return None
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    if error is None or error.errno is None:
        return None
    calls = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    if error.errno not in ENVIRONMENT_ERRORS and not {"mkdir", "makedirs"} & {*calls[-1:]}:
        return None
    return f"{error.filename or os.getcwd()}: {os.strerror(error.errno)}"


def _describe(error: BaseException) -> str:
    if fault := _environment_fault(error):
        return fault
    if isinstance(error, OverrideParseException):
        key, equals, value = error.override.partition("=")
        if not equals:
            return f"{error.override}: expected KEY=VALUE"
        return (
            f"{error.override}: Hydra cannot read this value; quote it for Hydra and for the shell "
            f"if it is meant as text: {override(key, value)}"
        )
    cause = error.__cause__
    if isinstance(cause, OmegaConfBaseException) and cause.parent_node is not None:
        choices = _keys(cause.parent_node)
        if choices and cause.key not in choices:
            full_key = cause.full_key or cause.key
            return f"{full_key}: no such key; valid keys here: {', '.join(choices)}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    for line in lines[1:]:
        if line.startswith("Config search path"):
            break
        if line.startswith(("full_key:", "object_type=", "reference_type=")):
            continue
        text += (" " if text.endswith((":", ".", ",")) else ", ") + line
    return text


def _keys(node: Any) -> list[str]:
    return [str(key) for key in node] if OmegaConf.is_dict(node) else []
