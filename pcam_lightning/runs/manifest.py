"""The manifest of a run: command, seed, code, packages, machine, data and Slurm job."""

from __future__ import annotations

import functools
import os
import re
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from email.parser import HeaderParser
from importlib import metadata
from typing import Any

from pcam_lightning import __version__
from pcam_lightning.runs.checkout import source_digests
from pcam_lightning.runs.hardware import read_hardware
from pcam_lightning.runs.snapshot import code_state, read_snapshot

MAIN_PACKAGES = ("torch", "torchvision", "lightning", "hydra-core", "h5py", "numpy")
# Only these are recorded, because an environment may hold passwords.
ENVIRONMENT_VARIABLES = (
    "OMP_NUM_THREADS",
    "CUDA_VISIBLE_DEVICES",
    "CUBLAS_WORKSPACE_CONFIG",
    "PYTHONHASHSEED",
    "PCAM_ROOT",
)
SLURM_VARIABLES = {
    "job_id": "SLURM_JOB_ID",
    "array_job_id": "SLURM_ARRAY_JOB_ID",
    "array_task_id": "SLURM_ARRAY_TASK_ID",
    "partition": "SLURM_JOB_PARTITION",
    "node_list": "SLURM_JOB_NODELIST",
    "node": "SLURMD_NODENAME",
    "tasks": "SLURM_NTASKS",
    "restarts": "SLURM_RESTART_COUNT",
}
SECRET = re.compile(r"(?i)((?:^|[._-])(?:api_?key|token|password|passwd|secret)=).+")


def collect_manifest(
    *,
    command: Sequence[str],
    seed: int | None,
    dataset: Mapping[str, Any],
    config: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the content of `manifest.json` for `recording`; unknown facts are None.

    Args:
        command: command line as typed; values of overrides such as `logger.api_key=` are masked.
        seed: seed of the run, if it has one.
        dataset: `name`, with `root` and `fingerprint` if there are files.
        config: config that a later start in the same folder is compared with.
    """
    code, snapshot = code_state(), read_snapshot()
    git = {"commit": code.commit, "branch": code.branch, "dirty": code.dirty, "note": code.note}
    manifest: dict[str, Any] = {
        "command": [SECRET.sub(r"\1***", word) for word in command],
        "started": datetime.now().astimezone().isoformat(timespec="milliseconds"),
        "seed": seed,
        "dataset": dict(dataset),
        "git": git | {"patch_left_out": list(code.left_out)},
        "snapshot": snapshot and {key: snapshot.get(key) for key in ("digest", "folder", "taken")},
        "sources": source_digests(),
        "python": {"version": sys.version.split()[0], "executable": sys.executable},
        "packages": {
            "pcam_lightning": __version__,
            **{name: _version(name) for name in MAIN_PACKAGES},
        },
        "hardware": read_hardware(),
        "slurm": read_slurm(),
        "environment": {name: os.environ.get(name) for name in ENVIRONMENT_VARIABLES},
    }
    return manifest if config is None else manifest | {"config": dict(config)}


def read_slurm() -> dict[str, int | str | None] | None:
    """Return facts of this process's Slurm job from its environment; None outside a job."""
    if "SLURM_JOB_ID" not in os.environ:
        return None
    values = {fact: os.environ.get(variable) for fact, variable in SLURM_VARIABLES.items()}
    # Slurm does not set the restart count before the first restart.
    values["restarts"] = values["restarts"] or "0"
    return {fact: int(text) if text and text.isdigit() else text for fact, text in values.items()}


@functools.cache
def environment_text() -> str:
    """Return the content of `environment.txt`: sorted lines `name==version`, one per package.

    The packages are listed once per process.
    """
    versions: dict[str, str] = {}
    for package in metadata.distributions():
        # `package.metadata` parses the long description too, which takes four times as long.
        texts = map(package.read_text, ("METADATA", "PKG-INFO", ""))
        header = (next(filter(None, texts), None) or "").partition("\n\n")[0]
        found = HeaderParser().parsestr(header)
        if name := found["Name"]:  # a broken installation has none
            line = f"{name}=={found['Version']}"
            # An import uses the first package found.
            versions.setdefault(re.sub(r"[-_.]+", "-", name).lower(), line)
    return "".join(f"{versions[name]}\n" for name in sorted(versions))


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
