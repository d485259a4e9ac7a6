"""Schemas of the commands' configs: types, ranges and choices."""

from pcam_lightning.config.schema.validate import (
    ROOTS,
    check,
    check_model,
    check_search,
    read_launcher,
)

__all__ = ["ROOTS", "check", "check_model", "check_search", "read_launcher"]
