"""Rules for an untrusted config: the targets that it may call and the paths that it may write to.

A `_target_` is a name that is imported and called. The user's own config is trusted; a config in a
run folder may come from a stranger. In the latter, a section may name only the targets that `conf/`
has in this section, with numbers, words, and paths inside the run's own folder as arguments; a
place of pretrained weights may be any, since weights are read by checked readers.
Nothing is imported for this check.
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
from pcam_lightning.weights.source import takes_weights

WORDS = re.compile(r"(\w[\w ,.:+%-]*(/[\w-][\w.-]*)*)?")
"""A text argument that cannot lead out of a folder: `best`, `val/auroc`, `ddp`."""
RUN_DIR = "${run_dir}"


def check_foreign(
    config: Mapping[str, Any],
    sections: Collection[str],
    where: str,
    folder: Path | None = None,
    trusted: Collection[str] = (),
) -> None:
    """Raise `InputError` if an untrusted config calls another target or writes to another path.

    Args:
        config: plain containers.
        sections: sections to check, such as `model`: those that are instantiated.
        where: file of the config, for the message.
        folder: folder of the new run; None if no target in `sections` may write.
        trusted: targets that the user named on the command line, with any arguments.
    """
    for section in sections:
        for path, part in mappings(config.get(section), section):
            _check_part(part, section, f"{where}: config.{path}", folder, trusted)


def mappings(value: Any, path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield every mapping in a config, at any depth, with its path."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from mappings(item, f"{path}.{index}")
    elif isinstance(value, Mapping):
        yield path, value
        for key, item in value.items():
            yield from mappings(item, f"{path}.{key}")


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
            f"{where}._target_={target}: an untrusted file names this target; expected one of "
            f"{', '.join(sorted(calls))}, or this name on the command line if you trust it"
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
        elif section == "model" and key in ("name", "weights") and takes_weights(part):
            if "${" in str(value):  # would be resolved
                raise InputError(f"{where}.{key}={value!r}: expected a place without ${{")
        elif other := next((text for text in _texts(value) if not WORDS.fullmatch(text)), None):
            raise InputError(
                f"{where}.{key}={other!r}: expected a word, since the file is untrusted"
            )


def _texts(value: Any) -> Iterator[str]:
    """Yield the texts in a value, except those in mappings."""
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
    """A call of a target in `conf/`."""

    paths: frozenset[str] = frozenset()
    """Names of the arguments that are paths in the run's folder."""
    partial: bool = False


@cache
def _calls(section: str) -> dict[str, Call]:
    """Return the targets that `conf/` has in a section of a config."""
    found: dict[str, Call] = {}
    for path in sorted(CONF.rglob("*.yaml")):
        text = path.read_text(encoding="utf-8")
        config = yaml.safe_load(text) or {}
        if "@package _global_" in text:
            config = config.get(section)
        elif path.parent.name != section:
            continue
        for _, part in mappings(config, section):
            if isinstance(target := part.get("_target_"), str):
                paths = {k for k, v in part.items() if isinstance(v, str) and RUN_DIR in v}
                known = found.get(target, Call()).paths
                found[target] = Call(known | paths, part.get("_partial_", False))
    return found
