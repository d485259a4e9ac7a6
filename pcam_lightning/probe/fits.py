"""Fits on stored features, kept beside them: the same fit is not computed twice.

On 262,144 patches the search for neighbors takes two CPU cores more than ten minutes.
"""

import json
import logging
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from pcam_lightning.data.shared_folder import read_json, write_json
from pcam_lightning.probe.splits import Features

VERSION = 1
"""Part of every key; to be raised when the same features and settings would give another fit."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fits:
    """The fits on the features of a data set that this user has computed.

    Args:
        folder: folder of the feature files.
        inputs: digest (hex) of the features, the rows and the labels of all splits.
    """

    folder: Path
    inputs: str

    @classmethod
    def of(cls, features: Features) -> "Fits":
        """Return the fits on these features."""
        digest = xxhash.xxh3_128()
        for split in (features.train, features.val, features.test):
            digest.update(split.path.name.encode())  # includes the key of the features
            digest.update(split.row.tobytes())
            digest.update(split.label.tobytes())
        return cls(Path(features.facts["folder"]), digest.hexdigest())

    def recall(
        self, name: str, settings: Mapping[str, Any], compute: Callable[[], dict[str, Any]]
    ) -> tuple[dict[str, Any], bool]:
        """Return a fit, of plain JSON types, and whether it was known; compute it if not.

        Args:
            name: kind of fit.
            settings: everything that it depends on besides the features, of plain JSON types.
            compute: computes it.
        """
        facts = {"version": VERSION, "inputs": self.inputs, **settings}
        key = xxhash.xxh3_128_hexdigest(json.dumps(facts, sort_keys=True).encode())
        path = self.folder / f"{name}_{key}_u{os.getuid()}.json"
        if found := read_json(path, os.getuid()):
            log.info("%s: known from an earlier probe, in %s", name, path)
            return found, True
        value = compute()
        with suppress(OSError):  # the next probe computes it again
            write_json(path, value)
        return value, False
