"""The paths of a config that lie in its run's folder."""

from pathlib import Path
from typing import Any


def move_folder(config: Any, old: Path | str, new: Path | str) -> Any:
    """Return a config whose paths to a folder, and into it, lead to another one.

    A path is a whole value and is compared by its parts: moved from `/sweep/1`, neither
    `/sweep/10` nor a text that mentions `/sweep/1` changes.

    Args:
        config: a config, or any part of one, as plain containers.
        old, new: the folders.
    """
    if isinstance(config, dict):
        return {key: move_folder(value, old, new) for key, value in config.items()}
    if isinstance(config, list):
        return [move_folder(value, old, new) for value in config]
    if isinstance(config, str) and config and Path(config).is_relative_to(old):
        return str(Path(new) / Path(config).relative_to(old))
    return config
