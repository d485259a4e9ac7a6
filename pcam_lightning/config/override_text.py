"""Text of an override: as Hydra reads it, and for pasting into a shell."""

import re
import shlex
from collections.abc import Sequence

PLAIN = re.compile(r"[A-Za-z0-9_./:@%+-]+")
"""Texts that neither Hydra nor a shell reads as anything but characters."""
NO_TEXT = re.compile(r"[+-]?(?:[\d._]*(?:e[+-]?[\d_]*)?|inf|nan)|true|false|null", re.IGNORECASE)
"""Numbers and words that Hydra does not read as texts, and a few more."""


def override(key: str, value: str | Sequence[str]) -> str:
    """Return `key=value` as a word for a shell, which Hydra reads as this value."""
    text = hydra_text(value) if isinstance(value, str) else f"[{','.join(map(hydra_text, value))}]"
    return shlex.quote(f"{key}={text}")


def hydra_text(value: str) -> str:
    """Return a text as Hydra's grammar writes it, with quotes if it needs them.

    An interpolation such as `${seed}` is escaped.
    """
    if PLAIN.fullmatch(value) and not NO_TEXT.fullmatch(value):
        return value
    # OmegaConf halves the backslashes before an interpolation.
    value = re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    # Double quotes are easier to read in a word that a shell quotes.
    quote = "'" if '"' in value and "'" not in value else '"'
    # Hydra halves the backslashes before a quote, including the closing one.
    value = re.sub(rf"(\\+)(?={quote}|$)", r"\1\1", value).replace(quote, f"\\{quote}")
    return f"{quote}{value}{quote}"
