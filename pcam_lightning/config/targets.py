"""Rules for a config that comes from a file: what it may call, and where that may write.

A `_target_` is a name that is imported and called. In the user's own config it is the user's word;
in a config that a run folder holds it is a stranger's. There, each section may name exactly what
the group of the same name in `conf/` names, and hand it numbers, words, and paths inside the run's
own folder. Nothing is imported to decide that.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from pcam_lightning.config.compose import CONF
from pcam_lightning.errors import InputError

WORDS = re.compile(r"(\w[\w ,.:+%-]*(/[\w-][\w.-]*)*)?")
"""A text argument that is no path out of the folder it is used in: `best`, `val/auroc`, `ddp`."""
RUN_DIR = "${run_dir}"


def check_foreign(
    config: Mapping[str, Any],
    sections: Collection[str],
    where: str,
    folder: Path | None = None,
    trusted: Collection[str] = (),
) -> None:
    """Raise `InputError` where a config from a file would call, or let write, more than it may.

    Args:
        config: plain containers; of these, `sections` are looked at.
        sections: those that are instantiated, such as `model`.
        where: the file that the config comes from, for the message.
        folder: of the run that will be made; None where nothing in `sections` writes.
        trusted: targets that the user named on the command line; their arguments are not looked at.
    """
    for section in sections:
        for path, part in _parts(config.get(section), section):
            _check_part(part, section, f"{where}: config.{path}", folder, trusted)


def _parts(value: Any, path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every mapping in a config, at any depth, with its path."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _parts(item, f"{path}.{index}")
    elif isinstance(value, Mapping):
        yield path, value
        for key, item in value.items():
            yield from _parts(item, f"{path}.{key}")


def _check_part(
    part: Mapping[str, Any],
    section: str,
    where: str,
    folder: Path | None,
    trusted: Collection[str],
) -> None:
    target, calls = part.get("_target_"), _calls(section)
    if target in trusted:
        return
    if "_target_" in part and not (isinstance(target, str) and target in calls):
        raise InputError(
            f"{where}._target_={target}: not called, since a file names it; expected one of "
            f"{', '.join(sorted(calls))}, or the name on the command line if you trust it"
        )
    call = Call() if target is None else calls[target]
    for key in part.keys() | call.paths:
        value = part.get(key)
        if key == "_target_" or (key == "_partial_" and value is call.partial):
            continue
        if key.startswith("_"):
            raise InputError(f"{where}.{key}={value!r}: expected a config without {key}")
        if key in call.paths:
            if folder is None or not isinstance(value, str) or not _is_inside(value, folder):
                raise InputError(f"{where}.{key}={value!r}: expected a path inside {folder}")
        elif other := next((text for text in _texts(value) if not WORDS.fullmatch(text)), None):
            raise InputError(f"{where}.{key}={other!r}: expected a word, since a file says so")


def _texts(value: Any) -> Iterator[str]:
    """The texts in a value, those in mappings excepted."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


def _is_inside(text: str, folder: Path) -> bool:
    path = Path(text)
    return ".." not in path.parts and path.is_relative_to(folder)


@dataclass(frozen=True)
class Call:
    """How `conf/` calls a target."""

    paths: frozenset[str] = frozenset()
    """The arguments that are paths in the run's folder."""
    partial: bool = False


@cache
def _calls(section: str) -> dict[str, Call]:
    """The targets that `conf/` has in a section of a config."""
    found: dict[str, Call] = {}
    for path in sorted(CONF.rglob("*.yaml")):
        text = path.read_text(encoding="utf-8")
        config = yaml.safe_load(text) or {}
        if "@package _global_" in text:
            config = config.get(section)
        elif path.parent.name != section:
            continue
        for _, part in _parts(config, section):
            if isinstance(target := part.get("_target_"), str):
                paths = {k for k, v in part.items() if isinstance(v, str) and RUN_DIR in v}
                known = found.get(target, Call()).paths
                found[target] = Call(known | paths, part.get("_partial_", False))
    return found
