"""Going on in a run folder: from which checkpoint, and only with the config it was begun with."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pcam_lightning.errors import InputError
from pcam_lightning.runs.process import is_first_rank
from pcam_lightning.runs.record import read_json

HISTORY = ("metrics.csv", "gradients.parquet")
FREE = (
    "ckpt_path",
    "resume",
    "run_dir",
    "trainer.max_epochs",
    "data.root",
    "data.on_missing",
    "data.num_workers",
    "data.cache",
    "data.cache_dir",
    "data.device_resident",
    "callbacks.last_checkpoint",
    "callbacks.progress",
    "logger",
)
"""Keys and groups that two starts in the same folder may differ in: they change no weights."""


def check_resumable(config: Mapping[str, Any], folder: Path) -> None:
    """Refuse to go on in a folder that was begun with another config.

    Raises:
        InputError: names the first key that differs.
    """
    path = folder / "manifest.json"
    if config["resume"] != "auto" or config["ckpt_path"] is not None or not path.is_file():
        return
    if not (folder / "checkpoints" / "last.ckpt").is_file():
        return
    begun, now = (dict(_leaves(each)) for each in (read_json(path).get("config", {}), config))
    for key in sorted(begun.keys() | now.keys()):
        free = any(f"{key}.".startswith(f"{name}.") for name in FREE)
        if begun and not free and begun.get(key) != now.get(key):
            raise InputError(
                f"{folder}: begun with {key}={begun.get(key)}, now {now.get(key)}; expected the "
                "same to go on with, or resume=false, or another folder"
            )


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


def _leaves(config: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(config, Mapping):
        for key, value in config.items():
            yield from _leaves(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, config
