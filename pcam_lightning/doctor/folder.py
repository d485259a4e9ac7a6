"""The run folder of the doctor, which also has to work on a full or read-only disk."""

import sys
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, read_write

from pcam_lightning.cli.command import ConfigCheck
from pcam_lightning.doctor.disk import write_file
from pcam_lightning.errors import printable

FILES_BYTES = 1 << 20
"""More than the files of this command take."""


class FolderIfWritable(ConfigCheck):
    """A Hydra callback that lets the command run without a folder if none can be written.

    It sets `run_dir` to null, so that neither Hydra nor the command writes anything.
    """

    def on_run_start(self, config: DictConfig, **options: Any) -> None:
        folder = Path(config.hydra.run.dir).absolute()
        try:
            folder.exists()  # raises for a folder above that this user must not enter
            super().on_run_start(config, **options)
            _make(folder)
        except OSError as error:
            fault = f"{error.filename or folder}: {error.strerror}"
            print(printable(f"warning: {fault}; no summary is written"), file=sys.stderr)
            with read_write(config), read_write(config.hydra):
                config.run_dir = None
                config.hydra.run.dir = "."  # exists
                config.hydra.output_subdir = None
                config.hydra.job_logging.root.handlers = ["console"]


def _make(folder: Path) -> None:
    """Make a folder, if it does not exist, and check that it can be written; or raise OSError."""
    existed = folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        write_file(folder, FILES_BYTES)
    except OSError:
        if not existed:
            folder.rmdir()
        raise
