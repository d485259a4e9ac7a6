"""Readers of single files of a run folder, which is not trusted.

The readers accept regular files of a limited size, and parse them into plain containers of a
limited depth. Every fault is one RunFileError that names the file.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from pcam_lightning.errors import InputError, one_line

JSON_BYTES = 16 << 20
YAML_BYTES = 256 << 10
DEPTH = 64
"""Maximum nesting of containers; a config has about five levels."""
NUMBER_LENGTH = 400
"""Maximum characters of a number; the time to parse one is quadratic."""

KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class RunFileError(InputError):
    """A file of a run folder that cannot be read or written."""


class MissingRunFileError(RunFileError, FileNotFoundError):
    """A file that a run folder does not hold (yet)."""


def read_file(path: Path, limit: int) -> bytes:
    """Return the content of a regular file of at most `limit` bytes.

    Raises:
        MissingRunFileError: there is no such file.
        RunFileError: the file is not regular, too large, or cannot be read.
    """
    with _opened(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        content = stream.read(limit + 1) if size <= limit else b""
    if max(size, len(content)) > limit:
        raise RunFileError(f"{path} is too large, expected at most {limit:,} bytes")
    return content


def read_end(path: Path, size: int) -> bytes:
    """Return the last `size` bytes of a regular file. Errors as in `read_file`."""
    with _opened(path) as stream:
        stream.seek(max(0, stream.seek(0, os.SEEK_END) - size))
        return stream.read(size)


def check_file(path: Path) -> None:
    """Raise RunFileError unless a path leads to a regular file."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise RunFileError(f"{path} cannot be read: {error.strerror or error}") from None
    _check_regular(path, mode)


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file.

    Numbers must be finite, integers must have at most 64 bits, and keys must be unique.

    Raises:
        RunFileError: the file holds anything else, or is nested deeper than `DEPTH`.
    """
    return decode_json(path, read_file(path, JSON_BYTES))


def decode_json(path: Path | str, content: bytes) -> dict[str, Any]:
    """Return the JSON object in the content of a file; `path` names it in errors.

    Raises:
        RunFileError: as in `read_json`.
    """
    try:
        value = json.loads(
            content.decode("utf-8"),
            parse_int=_integer,
            parse_float=_finite,
            parse_constant=_refuse_constant,
            object_pairs_hook=_unique,
        )
        _check_depth(value)
    except RecursionError:
        raise RunFileError(f"{path} is not valid JSON: nested too deeply") from None
    except ValueError as error:
        raise RunFileError(f"{path} is not valid JSON: {one_line(error)}") from None
    if not isinstance(value, dict):
        raise RunFileError(f"{path} holds a JSON {type(value).__name__}, expected an object")
    return value


def read_yaml(path: Path) -> Any:
    """Return the plain value in a YAML file without tags, anchors and repeated keys.

    Raises:
        RunFileError: the file holds anything else, or is nested deeper than `DEPTH`.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        # Dates stay text, as in JSON.
        yaml_implicit_resolvers: ClassVar[Any] = {
            first: [each for each in rules if each[0] != "tag:yaml.org,2002:timestamp"]
            for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

        def compose_node(self, parent: Any, index: Any) -> Any:
            event = self.peek_event()
            # Repeated anchors can expand to any size.
            if getattr(event, "anchor", None) or getattr(event, "tag", None):
                raise ValueError(f"an anchor or a tag in line {event.start_mark.line + 1}")
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            mapping = super().construct_mapping(node, deep)
            if len(mapping) != len(node.value):
                raise ValueError(f"a key twice in line {node.start_mark.line + 1}")
            return mapping

    try:
        value = yaml.load(read_file(path, YAML_BYTES).decode("utf-8"), Loader)
        _check_depth(value)
    except RunFileError:
        raise
    except RecursionError:
        raise RunFileError(f"{path} is not valid YAML: nested too deeply") from None
    except (yaml.YAMLError, ValueError) as error:
        raise RunFileError(f"{path} is not valid YAML: {one_line(error)}") from None
    return value


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        # Without O_NONBLOCK, opening a pipe waits for a writer.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        try:
            _check_regular(path, os.fstat(handle).st_mode)
            with open(handle, "rb", closefd=False) as stream:
                yield stream
        finally:
            os.close(handle)
    except FileNotFoundError:
        raise MissingRunFileError(f"{path}: no such file") from None
    except OSError as error:
        raise RunFileError(f"{path} cannot be read: {error.strerror or error}") from None


def _check_regular(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = KINDS.get(stat.S_IFMT(mode), "not a regular file")
        raise RunFileError(f"{path} is {kind}, expected a file")


def _integer(text: str) -> int:
    if len(text) <= 20 and -(2**63) <= (number := int(text)) < 2**64:
        return number
    raise ValueError(f"an integer of {len(text)} digits")


def _finite(text: str) -> float:
    if len(text) <= NUMBER_LENGTH and math.isfinite(number := float(text)):
        return number
    raise ValueError(f"a number out of range: {text[:20]}")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key twice in one object")
    return found


def _check_depth(value: Any) -> None:
    """Raise ValueError if containers are nested too deeply or integers have more than 64 bits."""
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > DEPTH:
            raise ValueError("nested too deeply")
        if any(isinstance(each, int) and abs(each) >= 2**64 for each in level):
            raise ValueError("an integer of more than 64 bits")
        level = [
            item
            for each in level
            if isinstance(each, dict | list)
            for item in (each.values() if isinstance(each, dict) else each)
        ]
