"""Restrictions on the use of a result, from the license of its pretrained weights."""

from collections.abc import Mapping
from typing import Any

from pcam_lightning.errors import printable
from pcam_lightning.weights.license import describe_license, is_noncommercial


def print_license(backbone: Mapping[str, Any] | None) -> None:
    """Print the license of pretrained weights if it forbids commercial use.

    Args:
        backbone: as from `license_facts`.
    """
    if backbone is not None and is_noncommercial(backbone.get("license")):
        print(printable(f"license of the backbone {describe_license(backbone)}"))
