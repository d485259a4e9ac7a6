"""Paths in a config that lead into the run folder."""

from pathlib import Path
from typing import Any


def move_folder(config: Any, old: Path | str, new: Path | str) -> Any:
    """Return a config in which paths to a folder, and into it, lead to another folder.

    A path is a whole value and is compared by its parts: if `/sweep/1` moves, neither `/sweep/10`
    nor a text that mentions `/sweep/1` changes.

    Args:
        config: a config, or a part of one, as plain containers.
        old: the folder in the config.
        new: the folder in its place.
    """
    if isinstance(config, dict):
        return {key: move_folder(value, old, new) for key, value in config.items()}
    if isinstance(config, list):
        return [move_folder(value, old, new) for value in config]
    if isinstance(config, str) and config and Path(config).is_relative_to(old):
        return str(Path(new) / Path(config).relative_to(old))
    return config
