"""Licenses of pretrained weights."""

from pathlib import Path

import yaml

README_BYTES = 1 << 20
NONCOMMERCIAL = ("-nc", "noncommercial", "non-commercial", "research-only")


def read_license(readme: Path) -> str | None:
    """Return the license in the front matter of a README of the Hub; None if it states none.

    `license: other` stands for the license that `license_name` names.
    """
    try:
        if readme.stat().st_size > README_BYTES:
            return None
        text = readme.read_text(encoding="utf-8", errors="replace")
        front = text.removeprefix("---\n").partition("\n---")[0] if text.startswith("---\n") else ""
        stated = yaml.safe_load(front)
    except (OSError, yaml.YAMLError, RecursionError):
        return None
    if not isinstance(stated, dict):
        return None
    found = stated.get("license")
    if found == "other":
        found = stated.get("license_name", found)
    return found if isinstance(found, str) else None


def is_noncommercial(license: str | None) -> bool:
    """Return whether the identifier of a license names a restriction to non-commercial use."""
    return license is not None and any(each in license.lower() for each in NONCOMMERCIAL)
