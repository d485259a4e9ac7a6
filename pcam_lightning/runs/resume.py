"""Going on in a run folder: from which checkpoint, and only with the config it was begun with."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pcam_lightning.errors import InputError
from pcam_lightning.runs.contents import read_manifest
from pcam_lightning.runs.process import is_first_rank

HISTORY = ("metrics.csv", "gradients.parquet")
FREE = (
    "ckpt_path",
    "resume",
    "run_dir",
    "experiment_name",
    "data.root",
    "data.default_root",
    "data.on_missing",
    "data.num_workers",
    "data.cache",
    "data.cache_dir",
    "data.device_resident",
    "callbacks.last_checkpoint",
    "callbacks.progress",
    "logger",
)
"""Keys and groups of a config that change no weights."""


def changes_weights(key: str) -> bool:
    """Whether a key of a config, such as `optimizer.lr`, can change what a run computes."""
    return not any(f"{key}.".startswith(f"{name}.") for name in FREE)


def take_up(config: dict[str, Any], folder: Path) -> str | None:
    """Prepare a config for going on in a folder, if a start with it will.

    A precision left to the machine becomes the one that the run was begun with. Returns the
    fingerprint of the data it was begun with, None where nothing goes on.

    Raises:
        InputError: the folder's run was begun with another config; names the first key that
            differs.
    """
    path = folder / "manifest.json"
    if config["resume"] != "auto" or config["ckpt_path"] is not None or not path.is_file():
        return None
    if not (folder / "checkpoints" / "last.ckpt").is_file():
        return None
    manifest = read_manifest(path)
    before = manifest.get("config", {})
    if config["trainer"]["precision"] == "auto" and before:
        config["trainer"]["precision"] = before["trainer"]["precision"]
    begun, now = dict(leaves(before)), dict(leaves(config))
    for key in sorted(begun.keys() | now.keys()):
        free = key == "trainer.max_epochs" or not changes_weights(key)
        if begun and not free and begun.get(key) != now.get(key):
            raise InputError(
                f"{folder}: begun with {key}={begun.get(key)}, now {now.get(key)}; expected the "
                "same to go on with, or resume=false, or another folder"
            )
    return manifest.get("dataset", {}).get("fingerprint")


def choose_checkpoint(config: Mapping[str, Any], folder: Path) -> str | None:
    """What to go on from: the checkpoint that was named, the folder's last one, or None.

    Where it is None, and in drafts of checkpoints, what a start that was killed left is removed.
    """
    if config["ckpt_path"] is not None:
        return config["ckpt_path"]
    last = folder / "checkpoints" / "last.ckpt"
    goes_on = config["resume"] == "auto" and last.is_file()
    if is_first_rank():
        for draft in (folder / "checkpoints").glob(".*.tmp"):
            draft.unlink()
        for name in () if goes_on else HISTORY:
            (folder / name).unlink(missing_ok=True)
    return str(last) if goes_on else None


def leaves(config: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every key of a config with its value, as `optimizer.lr` and 0.001."""
    if isinstance(config, Mapping):
        for key, value in config.items():
            yield from leaves(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, config
