"""A section without input: the command that makes it."""

from pcam_lightning.checks.inputs import COMMANDS, Kind
from pcam_lightning.report.blocks import Text


def missing(subject: str, kind: Kind) -> Text:
    """Return one line with the command that would make the input of a section."""
    return Text(f"{subject}: none among the inputs; `{COMMANDS[kind]}` makes it.", "missing")
