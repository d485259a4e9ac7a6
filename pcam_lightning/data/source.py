"""Choice of the data set of a run: the official files, or the demo set."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pcam_lightning.data.demo.generate import DemoOptions, ensure_demo
from pcam_lightning.data.files import missing_files
from pcam_lightning.errors import InputError

SOURCE_KEYS = ("root", "default_root", "on_missing", "demo")
"""Keys of a config's `data` section that choose the data set."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """A folder with the six files, and the name every output is marked with."""

    name: str
    root: Path


def find_source(data: Mapping[str, Any]) -> Source:
    """Find the data set of a run; download or make it where the config says so.

    Args:
        data: the `data` section of a config, of which `SOURCE_KEYS` are read. `root` is a folder
            that was named on purpose: nothing may stand in for it. Where it is None,
            `default_root` is read; where that is None too, the demo set. `on_missing` decides what
            happens when the folder lacks files: "demo" takes the demo set in place of
            `default_root`, "download" fetches the official files, "error" is an error. `demo`
            holds `parent`, the folder for the demo set, and the fields of `DemoOptions`.

    Raises:
        InputError: the files are not there and nothing may stand in for them.
    """
    folder = _folder(data)
    if folder is not None and data["on_missing"] == "download" and missing_files(folder):
        # Imported here, because nobody else needs the network.
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
    """Return the folder of the six files, None where the demo set is to be used.

    Args and errors as in `find_source`; nothing is downloaded or made.
    """
    root = _folder(data)
    if root is None or not (missing := missing_files(root)):
        return root
    if data["root"] is None and data["on_missing"] == "demo":
        return None
    raise InputError(
        f"data.root={root}: {len(missing)} of the 6 PatchCamelyon files are not there, the first "
        f"is {missing[0].name}; expected the official H5 files (python -m pcam_lightning.download "
        f"root={root} fetches them), data.on_missing=download, or data=demo"
    )


def warn_of_demo(default_root: str) -> None:
    """Warn that runs use the demo set, since the default folder lacks the official files."""
    log.warning(
        "No PatchCamelyon files in %s: using the DEMO set, made-up patches. Results on it say "
        "nothing about real tissue. Name the real files with data.root=FOLDER or PCAM_ROOT.",
        default_root,
    )


def recorded_root(dataset: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of a `data` section that name the data set of a finished run again.

    It is read where it is, and never downloaded.

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
    """Return the folder to read, named or default; None asks for the demo set."""
    named = data["root"] if data["root"] is not None else data["default_root"]
    return None if named is None else Path(named)
