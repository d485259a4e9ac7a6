"""Licenses of pretrained weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

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


def license_facts(backbone: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return `name`, `license` and `digest` of pretrained weights, for a summary.

    Args:
        backbone: as in a manifest; None for a network without published weights.

    Returns:
        None if every weight was trained from random values.
    """
    if backbone is None or backbone.get("file") is None:
        return None
    return {key: backbone.get(key) for key in ("name", "license", "digest")}


def describe_license(backbone: Mapping[str, Any]) -> str:
    """Return name and license of pretrained weights in a line.

    Args:
        backbone: `name` and `license`, as in a manifest.
    """
    stated = backbone.get("license")
    text = f"{backbone['name']}: {stated or 'not stated'}"
    return f"{text}, for non-commercial use only" if is_noncommercial(stated) else text
