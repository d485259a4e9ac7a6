"""Text of an override for pasting into a shell."""

import re
import shlex
from collections.abc import Sequence

PLAIN = re.compile(r"[\w./:@%+-]+")


def override(key: str, value: str | Sequence[str]) -> str:
    """Return `key=value` as a word for a shell, which Hydra reads as this value."""
    text = _quoted(value) if isinstance(value, str) else f"[{','.join(map(_quoted, value))}]"
    return shlex.quote(f"{key}={text}") if not PLAIN.fullmatch(text) else f"{key}={text}"


def _quoted(value: str) -> str:
    if PLAIN.fullmatch(value):
        return value
    return "'" + re.sub(r"(\\*)'", r"\1\1\\'", value) + "'"
