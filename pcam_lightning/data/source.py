"""Choice of the data set of a run: the official files, or the demo set."""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pcam_lightning.data.demo.generate import DemoOptions, ensure_demo
from pcam_lightning.data.layout import describe_missing, missing_files
from pcam_lightning.errors import InputError

SOURCE_KEYS = ("root", "default_root", "on_missing", "demo")
"""Keys of a config's `data` section that choose the data set."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """A folder with the six files, and the data set name recorded in every output."""

    name: str
    root: Path


def find_source(data: Mapping[str, Any]) -> Source:
    """Find the data set of a run; download or generate it if the config asks for that.

    Args:
        data: the `data` section of a config, of which `SOURCE_KEYS` are read. `root` is a folder
            named on purpose, which is never replaced. If it is None, `default_root` is read; if
            that is None too, the demo set. `on_missing` applies to a folder that lacks files:
            "demo" replaces `default_root` by the demo set, "download" downloads the official
            files, "error" raises. `demo` holds `parent`, the folder for the demo set, and the
            fields of `DemoOptions`.

    Raises:
        InputError: files are missing and must not be replaced.
    """
    folder = _folder(data)
    if folder is not None and data["on_missing"] == "download" and missing_files(folder):
        # Imported here, since only this case needs the network.
        from pcam_lightning.data.download import download, official_files

        download(folder, official_files())
    if (root := find_root(data)) is not None:
        return Source("pcam", root.resolve())
    if data["default_root"] is not None:
        warn_of_demo(data["default_root"])
    demo = data["demo"]
    options = DemoOptions(**{key: demo[key] for key in demo if key != "parent"})
    return Source("demo", ensure_demo(Path(demo["parent"]), options).resolve())


def find_root(data: Mapping[str, Any]) -> Path | None:
    """Return the folder of the six files, or None to use the demo set.

    Arguments and errors as in `find_source`; nothing is downloaded or generated.
    """
    root = _folder(data)
    if root is None or not (fault := describe_missing(root)):
        return root
    if data["root"] is None and data["on_missing"] == "demo":
        return None
    raise InputError(
        f"data.root={root}: {fault}; expected the H5 files (python -m pcam_lightning.download "
        f"root={root} fetches them), data.on_missing=download, or data=demo"
    )


def warn_of_demo(default_root: str) -> None:
    """Warn that runs use the demo set, since the default folder lacks the H5 files."""
    log.warning(
        "%s: %s. Using the DEMO set of synthetic patches: its results do not apply to real tissue. "
        "Set the folder of the real files by data.root=FOLDER or PCAM_ROOT.",
        default_root,
        describe_missing(Path(os.path.expanduser(default_root))),
    )


def recorded_root(dataset: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of a `data` section that select the data set of a finished run again.

    The data set is read from its recorded folder and never downloaded.

    Args:
        dataset: `name` and `root` of the run's manifest.

    Raises:
        InputError: the manifest does not name its data set.
    """
    root = None if dataset.get("name") == "demo" else dataset.get("root")
    if root is None and dataset.get("name") != "demo":
        raise InputError("manifest.json: no dataset.root, expected the folder of the run's data")
    return {"root": root, "default_root": None, "on_missing": "error"}


def _folder(data: Mapping[str, Any]) -> Path | None:
    """Return the named or the default folder, None for the demo set."""
    named = data["root"] if data["root"] is not None else data["default_root"]
    return None if named is None else Path(os.path.expanduser(named))
