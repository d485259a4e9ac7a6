"""Which files a run reads: the ones that were named, or the demo set."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pcam_lightning.data.demo import DemoOptions, ensure_demo
from pcam_lightning.data.files import missing_files
from pcam_lightning.errors import InputError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """A folder with the six files, and the name every output is marked with."""

    name: str
    root: Path


def find_source(
    root: str | Path | None,
    demo: Mapping[str, Any],
    on_missing: str = "demo",
    named: bool = False,
) -> Source:
    """Find the data set of a run; what is in its files is not looked at.

    Args:
        root: the folder of the H5 files; None asks for the demo set outright.
        demo: `parent`, the folder the demo set is made in, and the fields of `DemoOptions`.
        on_missing: "demo" makes the demo set where `root` lacks files, "download" fetches the
            official ones, "error" refuses.
        named: the root was named on purpose, so nothing may stand in for it.

    Raises:
        InputError: the files are not there and nothing may stand in for them.
    """
    if root is not None and on_missing == "download" and missing_files(Path(root)):
        # Imported here, because nobody else needs the network.
        from pcam_lightning.data.download import download, official_files

        download(Path(root), official_files())
    if root is not None and (missing := missing_files(Path(root))):
        if named or on_missing == "error":
            raise InputError(
                f"data.root={root}: {len(missing)} of the 6 PatchCamelyon files are not there, the "
                f"first is {missing[0].name}; expected the official H5 files, "
                "data.on_missing=download, or data=demo"
            )
        log.warning(
            "No PatchCamelyon files in %s: using the DEMO set, made-up patches. Results on it say "
            "nothing about real tissue. Name the real files with data.root=FOLDER or PCAM_ROOT.",
            root,
        )
        root = None
    if root is None:
        options = DemoOptions(**{key: demo[key] for key in demo if key != "parent"})
        source = Source("demo", ensure_demo(Path(demo["parent"]), options).resolve())
    else:
        source = Source("pcam", Path(root).resolve())
    return source
